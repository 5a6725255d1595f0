-- Which job may run where and when: what it needs, whose it is, how long it may wait and run, how many workers it has lost.

alter table jobs add column lost bigint not null default 0;
alter table jobs add column owner text not null default '';
alter table jobs add column timeout_ms bigint;
-- a job that no worker has begun by then fails
alter table jobs add column start_by bigint;
-- 1 where what another job has published for the same plan will do
alter table jobs add column reuse bigint not null default 0;
alter table jobs add column requirements text not null default '{}';

create index jobs_of_owner on jobs (status, owner);
create index jobs_of_plan on jobs (plan_digest);

-- what each worker last said of itself; no lease rests on it
create table workers (
    id text not null primary key,
    about text not null,
    started_at bigint not null,
    seen_at bigint not null,
    drain_requested_at bigint,
    stopped_at bigint
);

create table queues (
    name text not null primary key,
    paused_at bigint
);

insert into queues (name, paused_at) values ('default', null);
