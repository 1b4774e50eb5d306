"""Version 2 of the frontend."""

import frontend

frontend.serve("v2")
