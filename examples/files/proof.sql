-- The chord: its members, and the report that waited for all of them
select w.state, w.steps, w.succeeded, w.failed, s.waits_for, s.remaining
from pgqueue.all_workflows w join pgqueue.workflow_steps s on s.workflow_id = w.id
where s.task = 'examples.files.tasks.report';

-- The standard library in figures
select count(*) as files, sum((result ->> 'lines')::int) as lines, sum((result ->> 'functions')::int) as functions,
       sum((result ->> 'classes')::int) as classes, sum((result ->> 'imports')::int) as imports
from pgqueue.all_jobs where task = 'examples.files.tasks.measure' and result ->> 'error' is null;

-- Its five largest modules outside of its tests
select regexp_replace(result ->> 'file', '.*/python3[^/]*/', '') as module, (result ->> 'lines')::int as lines,
       (result ->> 'functions')::int as functions, (result ->> 'classes')::int as classes
from pgqueue.all_jobs
where task = 'examples.files.tasks.measure' and result ->> 'error' is null and result ->> 'file' !~ '/(idlelib|test|tests)/'
order by 2 desc limit 5;

-- Files that are no Python 3
select count(*), min(result ->> 'error') as for_example
from pgqueue.all_jobs where task = 'examples.files.tasks.measure' and result ->> 'error' is not null;

-- What holds
select 'each file has a job of its own, which succeeded' as promise,
       count(*) = count(distinct args ->> 0) and count(*) > 0 and bool_and(state = 'succeeded') as holds
from pgqueue.all_jobs where task = 'examples.files.tasks.measure'
union all
select 'there is one report', count(*) = 1 from pgqueue.all_jobs where task = 'examples.files.tasks.report' and state = 'succeeded'
union all
select 'it is about all files', (r.result ->> 'files')::int = m.files and (r.result ->> 'lines')::int = m.lines
from (select count(*) as files, sum((result ->> 'lines')::int) as lines
      from pgqueue.all_jobs where task = 'examples.files.tasks.measure') m,
     (select result from pgqueue.all_jobs where task = 'examples.files.tasks.report') r;
