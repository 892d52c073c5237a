"""An index of real files: each one becomes a job, SQL over the results gives the answer."""
