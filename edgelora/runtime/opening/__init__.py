"""From settings, measurements and the machine to an open base: the plan, the memory check and the opening itself."""
