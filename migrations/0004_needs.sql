-- What a claim looks for, beside the requirements that it is taken from: bytes, and the labels as a sorted JSON list.

alter table jobs add column needs_memory bigint not null default 0;
alter table jobs add column needs_disk bigint not null default 0;
alter table jobs add column needs_gpu_memory bigint not null default 0;
alter table jobs add column needs_labels text not null default '[]';
