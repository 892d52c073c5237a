-- Orders that are in the table, orders that were rolled back with their workflows, payments, refunds
select (select count(*) from orders) as orders,
       (select last_value from orders_id_seq) - (select count(*) from orders) as rolled_back,
       (select count(*) from payments where cents > 0) as payments,
       (select count(*) from payments where cents < 0) as refunds;

-- Orders by how their workflows ended
select state, count(*), sum(steps) as steps, sum(succeeded) as succeeded, sum(failed) as failed, sum(skipped) as skipped
from pgqueue.all_workflows where name like 'order-%' group by 1 order by 1;

-- Why some failed, and what was undone
select split_part(s.error ->> 'message', ': ', 2) as why, count(*) as orders,
       count(*) filter (where exists (select from pgqueue.workflow_steps u where u.workflow_id = s.workflow_id
                                      and u.step = 'charge.undo' and u.state = 'succeeded')) as refunded,
       count(*) filter (where exists (select from pgqueue.workflow_steps u where u.workflow_id = s.workflow_id
                                      and u.step = 'reserve.undo' and u.state = 'succeeded')) as restocked
from pgqueue.workflow_steps s where s.state = 'failed' and not s.propagated group by 1 order by 2 desc;

-- What went wrong on the way, and was made good
select outcome, error ->> 'type' as error, count(*) from pgqueue.attempts where outcome <> 'failed' group by 1, 2 order by 1, 2;

-- What holds
select 'every order has one workflow, and no workflow lacks its order' as promise,
       array_agg('order-' || o.id order by 'order-' || o.id) = (select array_agg(w.name order by w.name) from pgqueue.all_workflows w) as holds
from orders o
union all
select 'every workflow has ended', count(*) = 0 from pgqueue.all_workflows where state not in ('succeeded', 'failed')
union all
select 'what was shipped is what succeeded', count(*) = 0
from orders o join pgqueue.all_workflows w on w.name = 'order-' || o.id
where (o.state = 'shipped') <> (w.state = 'succeeded')
union all
select 'what was shipped was charged once', count(*) = 0
from orders o where o.state = 'shipped'
  and (select count(*) <> 1 or sum(p.cents) <> o.cents from payments p where p.order_id = o.id)
union all
select 'what was not shipped cost nothing', count(*) = 0
from orders o where o.state <> 'shipped' and (select coalesce(sum(p.cents), 0) <> 0 from payments p where p.order_id = o.id)
union all
select 'what left the stock was shipped', 300 - (select sum(units) from stock) = count(*) from orders where state = 'shipped'
union all
select 'every shipped order has one mail', (select count(*) from orders where state = 'shipped') = count(*)
from pgqueue.all_jobs where task = 'examples.shop.tasks.notify' and state = 'succeeded';
