-- A place for every event in one log over all jobs, so that one reader can follow them all; and tickets for browsers.

-- null until the event is placed: on Postgres transactions end in another order than they begin
alter table events add column position bigint;
update events set position = placed.position
    from (select job_id, seq, row_number() over (order by job_id, seq) as position from events) placed
    where events.job_id = placed.job_id and events.seq = placed.seq;
create unique index events_by_position on events (position);
create index events_to_place on events (job_id, seq) where position is null;

-- one row
create table event_log (
    id bigint not null primary key check (id = 1),
    -- of the newest event that has its place
    last_position bigint not null
);
insert into event_log (id, last_position) select 1, coalesce(max(position), 0) from events;

-- of each tenant the newest event that was forgotten
create table event_log_pruned (
    tenant text not null primary key,
    position bigint not null
);
create index event_log_pruned_by_position on event_log_pruned (position);

-- each opens one event stream of its key, for a short time
create table stream_tickets (
    sha256 text not null primary key,
    tenant text not null,
    key_id text not null,
    expires_at bigint not null
);
