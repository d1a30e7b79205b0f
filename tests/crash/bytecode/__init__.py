"""Kill at every bytecode: each step is cut off before its first, second, third ... opcode, until it survives."""
