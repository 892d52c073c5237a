-- Jobs by task and state
select task, state, count(*) from pgqueue.all_jobs where task like 'examples.shop.%' group by 1, 2 order by 1, 2;

-- Orders that are in the table, orders that were rolled back with their jobs, payments
select (select count(*) from orders) as orders,
       (select last_value from orders_id_seq) - (select count(*) from orders) as rolled_back,
       (select count(*) from payments) as payments,
       (select to_char(sum(cents) / 100.0, 'FM999990.00') from payments) as charged;

-- What went wrong on the way, and was made good
select outcome, error ->> 'type' as error, count(*) from pgqueue.attempts group by 1, 2 order by 1, 2;

-- What holds
select 'every order was charged' as promise, count(*) = 0 as holds
from orders o where not o.paid or not exists (select from payments p where p.order_id = o.id)
union all
select 'none was charged twice', count(*) = 0
from (select order_id from payments group by 1 having count(*) > 1) twice
union all
select 'every order has one payment job', count(*) = 0
from orders o
where (select count(*) from pgqueue.all_jobs j
       where j.task = 'examples.shop.tasks.charge' and (j.args ->> 0)::bigint = o.id) <> 1
union all
select 'no job is there for an order that was rolled back', count(*) = 0
from pgqueue.all_jobs j
where j.task like 'examples.shop.%' and not exists (select from orders o where o.id = (j.args ->> 0)::bigint)
union all
select 'every payment has one receipt', (select count(*) from payments) = count(*) and count(*) = count(distinct args ->> 0)
from pgqueue.all_jobs where task = 'examples.shop.tasks.send_receipt' and state = 'succeeded'
union all
select 'what left the stock was ordered', 300 - (select sum(units) from stock) = count(*) from orders;
