"""`visualzoom train --dry-run`: what a run needs of each memory."""
