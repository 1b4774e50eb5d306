// Command kube is every Kubernetes program that a node runs, and kubectl, linked once: it acts as the program whose name
// it was started under, or as the one that its first argument names.
package main

import (
	"context"
	"os"
	"path"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	// Registered by being imported: the JSON log format, and the metrics of client and build.
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// program returns the command of that name, nil if there is none.
func program(name string) *cobra.Command {
	switch name {
	case "kube-apiserver":
		return apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		return controllers.NewControllerManagerCommand()
	case "kube-proxy":
		return proxy.NewProxyCommand()
	case "kube-scheduler":
		return scheduler.NewSchedulerCommand()
	case "kubectl":
		return kubectl.NewDefaultKubectlCommand()
	case "kubelet":
		return kubelet.NewKubeletCommand(context.Background())
	}
	return nil
}

func main() {
	command := program(path.Base(os.Args[0]))
	if command == nil && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		command = program(os.Args[0])
	}
	if command == nil {
		os.Stderr.WriteString("kube: no such program; use kube-apiserver, kube-controller-manager, kube-proxy, kube-scheduler, kubectl or kubelet\n")
		os.Exit(2)
	}
	os.Exit(cli.Run(command))
}
