-- What the pipeline loads: one row per station, all of them or none.
create table climate (
    station  text    primary key,
    readings integer not null,
    refused  integer not null,
    mean     numeric not null,
    lowest   numeric not null,
    highest  numeric not null
);
