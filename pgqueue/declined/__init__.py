"""What of Celery pgqueue does not have or honour, each name with the way out: tables for refusals and the documents."""
