-- One request may ask for several merges: its jobs form a group, each the merge of one variant. The group is no row of its
-- own, since all that can be said of it is said by its jobs.

alter table jobs add column group_id text;
alter table jobs add column group_position bigint;
alter table jobs add column variant text;
alter table jobs add column variant_settings text;

create index jobs_of_group on jobs (group_id, group_position);
