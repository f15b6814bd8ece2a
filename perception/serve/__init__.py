"""A page to watch a run: `server` is the sink that serves it, page/ are the files that the browser gets."""
