"""When something is due: crontabs, intervals, solar events and time zones. Pure: no database, no clock of its own."""
