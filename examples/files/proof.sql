-- Jobs by state
select state, count(*) from pgqueue.all_jobs where task = 'examples.files.tasks.measure' group by 1 order by 1;

-- The standard library in figures
select count(*) as files, sum((result ->> 'lines')::int) as lines, sum((result ->> 'functions')::int) as functions,
       sum((result ->> 'classes')::int) as classes, sum((result ->> 'imports')::int) as imports
from pgqueue.all_jobs where task = 'examples.files.tasks.measure' and state = 'succeeded';

-- Its five largest modules outside of its tests
select regexp_replace(result ->> 'file', '.*/python3[^/]*/', '') as module, (result ->> 'lines')::int as lines,
       (result ->> 'functions')::int as functions, (result ->> 'classes')::int as classes
from pgqueue.all_jobs
where task = 'examples.files.tasks.measure' and state = 'succeeded' and result ->> 'file' !~ '/(idlelib|test|tests)/'
order by 2 desc limit 5;

-- Files that are no Python 3
select error_type, count(*), min(error) as for_example
from pgqueue.all_jobs where task = 'examples.files.tasks.measure' and state = 'failed' group by 1 order by 2 desc;

-- What holds
select 'every file was read or its error kept' as promise, count(*) = 0 as holds
from pgqueue.all_jobs
where task = 'examples.files.tasks.measure' and state <> 'succeeded' and (state <> 'failed' or error_type <> 'SyntaxError')
union all
select 'each one by a job of its own', count(*) = count(distinct args ->> 0) and count(*) > 0
from pgqueue.all_jobs where task = 'examples.files.tasks.measure';
