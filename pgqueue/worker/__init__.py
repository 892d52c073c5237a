"""The run side: one worker claims, runs and finishes. Web applications never import it."""
