//! A group as clients see it: a table with a row for each variant.

use jobs::{GroupId, Job, Member};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::job_object::{ErrorObject, Links, Phase, ProgressObject, Status};
use crate::timestamp::rfc3339;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Group)]
pub(crate) struct GroupObject {
    #[schema(example = "group_0190a1b2c3d47e8f90a1b2c3d4e5f607")]
    id: String,
    /// Always `group`.
    object: &'static str,
    /// `queued` until one has begun, `running` or `cancelling` until all are over; then `failed` if one has failed, else
    /// `cancelled` if one was cancelled, else `succeeded`.
    status: Status,
    counts: Counts,
    /// What the variants set, each name once in the order written: the columns of a table.
    #[schema(example = json!(["t", "org/chat.weight"]))]
    parameters: Vec<String>,
    /// In the order of the request.
    jobs: Vec<MemberObject>,
    #[schema(format = DateTime)]
    created_at: String,
    /// When the last of them was over.
    #[schema(required, format = DateTime)]
    finished_at: Option<String>,
    links: GroupLinks,
}

/// How many jobs are in which status.
#[derive(Debug, Default, PartialEq, Serialize, ToSchema)]
#[schema(as = GroupCounts)]
pub(crate) struct Counts {
    queued: u32,
    running: u32,
    cancelling: u32,
    succeeded: u32,
    failed: u32,
    cancelled: u32,
}

/// A job of a group, in short.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GroupJob)]
pub(crate) struct MemberObject {
    id: String,
    variant: String,
    /// What the variant sets; what another sets and this does not is as in the recipe.
    #[schema(value_type = Object, example = json!({"t": 0.3}))]
    parameters: Map<String, Value>,
    status: Status,
    #[schema(required)]
    phase: Option<Phase>,
    #[schema(required)]
    progress: Option<ProgressObject>,
    /// Where the merged model is, once the job has succeeded.
    #[schema(required)]
    uri: Option<String>,
    #[schema(required)]
    error: Option<ErrorObject>,
    #[schema(required, format = DateTime)]
    started_at: Option<String>,
    #[schema(required, format = DateTime)]
    finished_at: Option<String>,
    links: Links,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupLinks {
    #[serde(rename = "self")]
    itself: String,
    jobs: String,
    cancel: String,
}

impl GroupObject {
    /// Of the jobs of one group; `None` where there are none.
    pub(crate) fn of(jobs: Vec<Job>) -> Option<Self> {
        let first = jobs.first()?;
        let id = first.member.as_ref()?.group.clone();
        let statuses: Vec<Status> = jobs.iter().map(Status::of).collect();
        let finished = jobs.iter().map(|job| job.finished_at).collect::<Option<Vec<i64>>>();
        Some(Self {
            object: "group",
            status: overall(&statuses),
            counts: Counts::of(&statuses),
            parameters: columns(&jobs),
            created_at: rfc3339(first.created_at),
            finished_at: finished.and_then(|times| times.into_iter().max()).map(rfc3339),
            links: GroupLinks::of(&id),
            id: id.to_string(),
            jobs: jobs.into_iter().filter_map(MemberObject::of).collect(),
        })
    }

    pub(crate) fn location(&self) -> &str {
        &self.links.itself
    }
}

fn overall(statuses: &[Status]) -> Status {
    let any = |status: Status| statuses.contains(&status);
    let all = |status: Status| statuses.iter().all(|s| *s == status);
    match () {
        () if all(Status::Queued) => Status::Queued,
        () if any(Status::Queued) || any(Status::Running) => Status::Running,
        () if any(Status::Cancelling) => Status::Cancelling,
        () if any(Status::Failed) => Status::Failed,
        () if any(Status::Cancelled) => Status::Cancelled,
        () => Status::Succeeded,
    }
}

fn columns(jobs: &[Job]) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    for name in jobs.iter().filter_map(|job| job.member.as_ref()).flat_map(|member| member.settings.keys()) {
        if !columns.contains(name) {
            columns.push(name.clone());
        }
    }
    columns
}

impl Counts {
    fn of(statuses: &[Status]) -> Self {
        let mut counts = Self::default();
        for status in statuses {
            *match status {
                Status::Queued => &mut counts.queued,
                Status::Running => &mut counts.running,
                Status::Cancelling => &mut counts.cancelling,
                Status::Succeeded => &mut counts.succeeded,
                Status::Failed => &mut counts.failed,
                Status::Cancelled => &mut counts.cancelled,
            } += 1;
        }
        counts
    }
}

impl MemberObject {
    fn of(job: Job) -> Option<Self> {
        let (status, links) = (Status::of(&job), Links::of(&job));
        let Member { variant, settings, .. } = job.member?;
        Some(Self {
            id: job.id.into(),
            variant,
            parameters: settings,
            status,
            phase: job.phase.map(Phase::from),
            progress: job.progress.as_ref().map(ProgressObject::from),
            uri: job.publication.as_ref().and_then(|it| it["uri"].as_str()).map(str::to_owned),
            error: job.error.map(ErrorObject::from),
            started_at: job.started_at.map(rfc3339),
            finished_at: job.finished_at.map(rfc3339),
            links,
        })
    }
}

impl GroupLinks {
    fn of(id: &GroupId) -> Self {
        let itself = format!("/v1/groups/{id}");
        Self { jobs: format!("/v1/jobs?group={id}"), cancel: format!("{itself}/cancel"), itself }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_over_when_all_are_and_as_good_as_its_worst() {
        use Status as S;
        for (statuses, expected) in [
            (vec![S::Queued, S::Queued], S::Queued),
            (vec![S::Queued, S::Succeeded], S::Running),
            (vec![S::Running, S::Cancelling], S::Running),
            (vec![S::Cancelling, S::Failed], S::Cancelling),
            (vec![S::Succeeded, S::Cancelled, S::Failed], S::Failed),
            (vec![S::Succeeded, S::Cancelled], S::Cancelled),
            (vec![S::Succeeded, S::Succeeded], S::Succeeded),
        ] {
            assert_eq!(overall(&statuses), expected, "{statuses:?}");
        }
    }
}
