"""What `bedplate COMMAND` does, in modules by purpose. Each registers its commands with their options."""
