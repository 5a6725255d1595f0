-- Who is told of what becomes of jobs, and each telling: written with the event that it tells of, sent afterwards.

-- the webhook of one job alone, as JSON: url and events
alter table jobs add column webhook text;

-- endpoints of a tenant; their secrets are derived, and stored nowhere
create table webhooks (
    id text not null primary key,
    tenant text not null,
    url text not null,
    -- words joined by blanks
    events text not null,
    created_at bigint not null,
    -- of its secret; rises when that is rotated
    generation bigint not null default 1,
    rotated_at bigint,
    -- since when it takes nothing more
    disabled_at bigint
);

create index webhooks_of_tenant on webhooks (tenant, id);

create table deliveries (
    -- what a receiver knows it by, the same in every attempt
    id text not null primary key,
    tenant text not null,
    -- an endpoint that may be gone by now; null for the webhook of the job itself, whose address is in `url`
    webhook_id text,
    url text,
    job_id text not null references jobs (id),
    type text not null,
    payload text not null,
    status text not null check (status in ('pending', 'delivered', 'failed')),
    created_at bigint not null,
    -- when it is to be sent
    next_at bigint not null,
    attempts bigint not null default 0,
    -- of the latest attempt: what the receiver answered, or why there was no answer
    last_status bigint,
    last_error text,
    delivered_at bigint,
    -- who claimed it last sends it, alone until then
    lease_token bigint not null default 0,
    lease_expires_at bigint
);

create index deliveries_to_send on deliveries (status, next_at);
create index deliveries_of_job on deliveries (job_id, id);
create index deliveries_of_webhook on deliveries (webhook_id, id);
