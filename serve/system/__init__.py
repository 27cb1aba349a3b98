"""Facts of the machine: processors, cgroups, memory."""
