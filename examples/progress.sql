select state, count(*) from pgqueue.all_jobs where task like %s group by 1
