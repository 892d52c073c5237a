"""When something is due: crontabs, intervals, solar events, and the time zones they are in. No database."""
