-- Who may do what, whose each job is, and which job it does again.

create table api_keys (
    -- what a key begins with after its prefix; no secret
    id text not null primary key,
    name text not null,
    tenant text not null,
    -- words joined by blanks
    scopes text not null,
    -- of the whole key: it is random, so that a plain hash is enough
    secret_sha256 text not null,
    created_at bigint not null,
    expires_at bigint,
    revoked_at bigint,
    last_used_at bigint
);

alter table jobs add column tenant text not null default '';
create index jobs_of_tenant on jobs (tenant, created_at, id);

-- the job that this one does again
alter table jobs add column retry_of text;
