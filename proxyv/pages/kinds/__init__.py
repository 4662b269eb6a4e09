"""One page kind a file (what it shows, what is asked), and in content.py what several of them use."""
