"""Telemount: the Docker volume driver, and the FUSE file system whose files are those of a remote container, by SFTP."""
