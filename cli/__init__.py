"""Commands: parse, report and call."""
