"""The place of plugins: one feature, one file. Empty until there is a door for them."""
