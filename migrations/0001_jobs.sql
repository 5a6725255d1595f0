-- An accepted job, and all that happened to it, must outlive every process: jobs and their events, tasks and attempts.
-- One text for SQLite and Postgres: ids, words and JSON are text, times are epoch milliseconds, booleans are 0 or 1.

create table jobs (
    id text not null primary key,
    status text not null check (status in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    phase text,
    recipe text not null,
    recipe_format text not null check (recipe_format in ('yaml', 'json')),
    method text not null,
    lenient bigint not null,
    output text not null,
    labels text not null,
    metadata text not null,
    priority bigint not null default 0,
    run_at bigint not null,
    attempt bigint not null default 0,
    max_attempts bigint not null default 3,
    -- the lease is on the job's own row: a lost worker can hide nothing, and one guarded update decides who owns the job
    lease_owner text,
    lease_token bigint not null default 0,
    lease_expires_at bigint,
    cancel_requested_at bigint,
    progress text,
    error text,
    publication text,
    plan_digest text,
    created_at bigint not null,
    started_at bigint,
    finished_at bigint,
    event_seq bigint not null default 0,
    idempotency_key text unique,
    request_digest text
);

create index jobs_to_claim on jobs (status, priority, run_at);
create index jobs_newest_first on jobs (created_at, id);

create table events (
    job_id text not null references jobs (id),
    seq bigint not null,
    type text not null,
    level text not null,
    message text not null,
    data text not null,
    created_at bigint not null,
    primary key (job_id, seq)
);

-- one task a job for now; the output shard is the unit that can fan out over workers later
create table tasks (
    job_id text not null references jobs (id),
    idx bigint not null,
    kind text not null,
    status text not null,
    primary key (job_id, idx)
);

create table attempts (
    job_id text not null references jobs (id),
    attempt bigint not null,
    worker text not null,
    started_at bigint not null,
    finished_at bigint,
    outcome text,
    error text,
    primary key (job_id, attempt)
);
