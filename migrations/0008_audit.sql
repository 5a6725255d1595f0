-- Who changed what, when and from where; and which request a job came with, so that its worker's spans can tell.

create table audit (
    id text not null primary key,
    at bigint not null,
    -- whose it is to see
    tenant text not null,
    -- the id of a key, `cli`, or nothing where no keys are asked for
    actor text not null,
    action text not null,
    -- the id of what was changed
    subject text not null,
    -- nothing where it was not told
    from_address text not null,
    request_id text not null
);

create index audit_newest_first on audit (tenant, at, id);
create index audit_oldest_first on audit (at);

alter table jobs add column request_id text;
alter table jobs add column traceparent text;
