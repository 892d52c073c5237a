# A worker with the application beside it; docker-compose.yml builds it. Replace examples/ by your own project.
FROM python:3.13-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY pgqueue pgqueue
COPY sql sql
COPY migrations migrations
COPY examples examples
RUN pip install --no-cache-dir .
# PostgreSQL's port is reached by name, nothing here listens, and nothing needs to be root.
USER nobody
ENTRYPOINT ["pgqueue"]
CMD ["worker"]
