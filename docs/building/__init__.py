"""What `docs/conf.py` builds the site with."""
