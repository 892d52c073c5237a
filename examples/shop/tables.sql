-- The shop's own tables. Payments have no unique key on purpose: a second charge of an order would show.
create table stock (
    item  text    primary key,
    cents integer not null,
    units integer not null check (units >= 0)
);

create table orders (
    id       bigint generated always as identity primary key,
    form     text    not null unique,      -- the form that the customer sent
    customer text    not null,
    item     text    not null references stock,
    cents    integer not null,
    state    text    not null default 'placed'
);

create table payments (
    order_id bigint  not null references orders,
    cents    integer not null,             -- negative: given back
    attempt  integer not null
);

insert into stock values ('book', 1500, 150), ('lamp', 4900, 90), ('chair', 8900, 60);
