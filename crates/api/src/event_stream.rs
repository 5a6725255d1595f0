//! A job, or all jobs of a tenant, followed over SSE. What was stored is read from the database, then what happens from the one
//! reader of this server.
//!
//! Invariants: what has an id is the stored log, in order and without gaps, wherever the client begins; `snapshot`, `progress`
//! and `end` of a job have none, so that a resumed stream never skips an event. A stream makes its next frames when the client
//! has taken the last: nothing is buffered for one that is slow.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, stream};
use jobs::{Job, JobFilter, Status};
use serde_json::json;

use crate::Api;
use crate::event_object::EventObject;
use crate::fields::Fields;
use crate::frame::{KEEP_ALIVE, frame, of_event};
use crate::job_object::JobObject;
use crate::limits::PAGE_MAX;
use crate::live::{CALL_MAX, Recent, Subscription};

/// How long a client waits before it reconnects, in milliseconds.
const RETRY: &str = "retry: 3000\n";
/// Silence after which a comment keeps proxies from closing the connection.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Events read at once.
const EVENTS_MAX: u32 = 100;

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// From which place a stream of a tenant's jobs goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// From now on.
    Now,
    /// Behind this position.
    Behind(i64),
    /// From now on, since what was before is forgotten in part.
    Anew,
}

/// The events of a job behind `after`.
pub(crate) fn of_job(api: Api, subscription: Subscription, job: Job, after: i64) -> Response {
    let snapshot = format!("{RETRY}{}", frame("snapshot", &JobObject::from(job.clone())));
    respond(Follower {
        api,
        subscription,
        place: Place::Job(Box::new(job)),
        cursor: after,
        pending: VecDeque::from([snapshot.into()]),
        reads: true,
        ended: false,
    })
}

/// The events of all jobs of a tenant; `last` is the newest position.
pub(crate) async fn of_tenant(
    api: Api,
    subscription: Subscription,
    tenant: String,
    begin: Begin,
    last: i64,
) -> jobs::Result<Response> {
    let cursor = if let Begin::Behind(position) = begin { position } else { last };
    let reset = if begin == Begin::Anew { reset() } else { String::new() };
    // it stands for all before it; behind a place that the client knows it must not move that
    let id = if let Begin::Behind(_) = begin { String::new() } else { format!("id: {last}\n") };
    let snapshot = format!("{RETRY}{reset}{id}{}", jobs_under_way(&api, &tenant).await?);
    Ok(respond(Follower {
        api,
        subscription,
        place: Place::Tenant(tenant),
        cursor,
        pending: VecDeque::from([snapshot.into()]),
        reads: cursor < last,
        ended: false,
    }))
}

/// What a list of jobs need not say to who follows them.
const OF_SNAPSHOT: &str = "id,object,status,phase,method,labels,priority,attempt,max_attempts,group_id,variant,progress,error,\
    created_at,started_at,run_at,last_event_id,links";

async fn jobs_under_way(api: &Api, tenant: &str) -> jobs::Result<String> {
    let filter = JobFilter {
        tenant: tenant.to_owned(),
        status: vec![Status::Queued, Status::Running],
        limit: PAGE_MAX,
        ..JobFilter::default()
    };
    let page = api.store.list(&filter).await?;
    let fields = Fields::of(OF_SNAPSHOT);
    let data: Vec<_> = page.jobs.into_iter().map(|job| fields.pick(&JobObject::from(job))).collect();
    Ok(frame("snapshot", &json!({"object": "list", "data": data, "has_more": page.next.is_some()})))
}

/// Tells that events before the next are missing.
fn reset() -> String {
    frame("reset", &json!({"reason": "events before this are no longer kept; go on from the snapshot"}))
}

fn respond(follower: Follower) -> Response {
    let mut response = Body::from_stream(frames(follower)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

fn frames(follower: Follower) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(follower, |mut follower| async move {
        let frame = follower.next().await?;
        Some((Ok(frame), follower))
    })
}

struct Follower {
    api: Api,
    subscription: Subscription,
    place: Place,
    /// The newest event that is told.
    cursor: i64,
    /// Frames of one read at most.
    pending: VecDeque<Bytes>,
    /// Whether the database has what is next, and not the subscription.
    reads: bool,
    ended: bool,
}

enum Place {
    /// As it was when the stream began.
    Job(Box<Job>),
    Tenant(String),
}

impl Follower {
    /// `None` ends the stream: the job has ended, the key has, the server stops, or the database is away and the client shall
    /// come again.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.api.shutdown.is_cancelled() || self.subscription.is_ended() {
                return None;
            }
            if let Some(frame) = self.pending.pop_front() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            let looked = tokio::time::timeout(CALL_MAX, self.look()).await;
            if let Err(error) = looked.unwrap_or_else(|_| Err(jobs::JobsError::no_answer(CALL_MAX))) {
                tracing::warn!(%error, "event stream cut: the database does not answer");
                return None;
            }
            if !self.pending.is_empty() || self.ended || self.reads {
                continue;
            }
            tokio::select! {
                () = self.subscription.changed() => {}
                () = self.api.shutdown.cancelled() => {}
                () = tokio::time::sleep(KEEP_ALIVE_EVERY) => return Some(Bytes::from_static(KEEP_ALIVE.as_bytes())),
            }
        }
    }

    async fn look(&mut self) -> jobs::Result<()> {
        if self.reads {
            return self.read().await;
        }
        match self.subscription.behind(self.cursor) {
            Recent::Behind => self.reads = true,
            Recent::Frames(frames, last) => {
                self.pending.extend(frames.into_iter().map(Bytes::from));
                self.cursor = last;
                self.tell_the_rest();
                // of a job that was deleted before its end was read nothing more is told
                self.reads = !self.ended && self.pending.is_empty() && self.subscription.has_missed_the_end();
            }
        }
        Ok(())
    }

    /// How the job stands after its events.
    fn tell_the_rest(&mut self) {
        match self.subscription.end() {
            Some((last, frame)) if self.cursor >= last => self.finish(&frame),
            _ => self
                .pending
                .extend(self.subscription.reports().iter().map(|frame| Bytes::copy_from_slice(frame.as_bytes()))),
        }
    }

    fn finish(&mut self, frame: &str) {
        self.pending.push_back(Bytes::copy_from_slice(frame.as_bytes()));
        self.ended = true;
    }

    async fn read(&mut self) -> jobs::Result<()> {
        match &self.place {
            Place::Job(job) => {
                let events = self.api.store.events(&job.id, self.cursor, EVENTS_MAX).await?;
                // nothing is appended once a job has ended; what an ended job's log lacks is forgotten
                let is_over = job.status.is_terminal() || events.last().is_some_and(|last| last.kind.is_terminal());
                let is_gone = events.is_empty() && self.subscription.has_missed_the_end();
                let is_over = is_over || is_gone;
                let is_gap = events.first().map_or(is_over && self.cursor < job.last_seq, |e| e.seq > self.cursor + 1);
                self.reads = events.len() == EVENTS_MAX as usize;
                let (id, ends) = (job.id.clone(), is_over && !self.reads);
                if is_gap {
                    let snapshot = frame("snapshot", &JobObject::from(Job::clone(job)));
                    self.pending.push_back(Bytes::from(format!("{}{snapshot}", reset())));
                }
                for event in events {
                    self.cursor = event.seq;
                    self.push(event.seq, &EventObject::from(event));
                }
                if ends {
                    // a job that was deleted meanwhile has no end to tell
                    self.ended = true;
                    if let Some(job) = self.api.store.job(&id).await? {
                        self.finish(&frame("end", &JobObject::from(job)));
                    }
                }
            }
            Place::Tenant(tenant) => {
                let tenant = tenant.clone();
                let placed = self.api.store.log_behind(self.cursor, Some(&tenant), EVENTS_MAX).await?;
                // read after the events: what went before they were read is known by then
                let ends = self.api.store.log_ends(&tenant).await?;
                if ends.pruned > self.cursor {
                    let snapshot = jobs_under_way(&self.api, &tenant).await?;
                    self.pending.push_back(Bytes::from(format!("{}id: {}\n{snapshot}", reset(), ends.last)));
                    (self.cursor, self.reads) = (ends.last, false);
                    return Ok(());
                }
                self.reads = placed.len() == EVENTS_MAX as usize;
                for placed in placed {
                    self.cursor = placed.position;
                    self.push(placed.position, &EventObject::from(placed.event));
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, number: i64, event: &EventObject) {
        self.pending.push_back(Bytes::from(format!("id: {number}\n{}", of_event(event))));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::Method;
    use jobs::{JobId, Phase};
    use serde_json::json;

    use super::EVENTS_MAX;
    use crate::testing::{Answer, Fixture, Frame, Reader};

    const STREAM: (&str, &str) = ("accept", "text/event-stream");

    async fn a_finished_job(fixture: &Fixture) -> JobId {
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        for phase in Phase::ALL {
            fixture.record(&lease, phase).await;
        }
        fixture.succeed(&lease).await;
        id
    }

    async fn resumed(fixture: &Fixture, id: &JobId, last: &str) -> Answer {
        let headers = [STREAM, ("last-event-id", last)];
        fixture.send(Method::GET, &format!("/v1/jobs/{id}/events"), &headers, "").await
    }

    fn stored(frames: &[Frame]) -> Vec<Frame> {
        frames.iter().filter(|frame| frame.id.is_some()).cloned().collect()
    }

    #[tokio::test]
    async fn a_stream_ends_by_itself_after_the_last_event() {
        let fixture = Fixture::new().await;
        let id = a_finished_job(&fixture).await;
        let answer = fixture.send(Method::GET, &format!("/v1/jobs/{id}/events"), &[STREAM], "").await;
        assert_eq!(answer.header("content-type"), "text/event-stream");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-accel-buffering"), "no");
        let frames = answer.frames();
        let kinds: Vec<&str> = frames.iter().map(|frame| frame.event.as_str()).collect();
        assert_eq!(
            kinds,
            ["snapshot", "queued", "started", "warning", "warning", "warning", "warning", "succeeded", "end"]
        );
        assert!(answer.text().starts_with("retry: 3000\nevent: snapshot\n"));
        assert_eq!((&frames[0].data["status"], &frames[8].data["status"]), (&json!("succeeded"), &json!("succeeded")));
        assert_eq!((frames[0].id.as_ref(), frames[8].id.as_ref()), (None, None));
        assert_eq!(frames[1].data["id"], "1");
    }

    #[tokio::test]
    async fn a_stream_whose_events_are_forgotten_ends_all_the_same() {
        let fixture = Fixture::new().await;
        let id = a_finished_job(&fixture).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let retention = jobs::Retention { events: Some(Duration::from_millis(1)), ..jobs::Retention::default() };
        assert!(fixture.store.prune(retention).await.unwrap().events > 0);
        let path = format!("/v1/jobs/{id}/events");
        let stream = fixture.send(Method::GET, &path, &[STREAM], "");
        let answer = tokio::time::timeout(Duration::from_secs(20), stream).await.expect("the stream ends");
        let kinds: Vec<String> = answer.frames().into_iter().map(|frame| frame.event).collect();
        assert_eq!(kinds, ["snapshot", "reset", "snapshot", "end"]);
    }

    #[tokio::test]
    async fn a_stream_resumed_at_every_event_gives_the_same_log() {
        let fixture = Fixture::new().await;
        let id = a_finished_job(&fixture).await;
        let whole = stored(&resumed(&fixture, &id, "0").await.frames());
        assert_eq!(whole.len(), 7);
        for cut in 1..whole.len() {
            let last = whole[cut - 1].id.clone().unwrap();
            let rest = stored(&resumed(&fixture, &id, &last).await.frames());
            assert_eq!([&whole[..cut], &rest].concat(), whole, "cut at {cut}");
            let by_query =
                fixture.send(Method::GET, &format!("/v1/jobs/{id}/events?after={last}"), &[STREAM], "").await;
            assert_eq!(stored(&by_query.frames()), rest);
        }
    }

    #[tokio::test]
    async fn a_reconnect_after_the_end_gets_204() {
        let fixture = Fixture::new().await;
        let id = a_finished_job(&fixture).await;
        let answer = resumed(&fixture, &id, "7").await;
        assert_eq!((answer.status, answer.text().as_str()), (204, ""));
    }

    #[tokio::test]
    async fn a_live_job_is_followed_to_its_end() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let mut reader = Reader::open(&fixture, &format!("/v1/jobs/{id}/events")).await;
        assert_eq!(reader.next().await.unwrap().event, "snapshot");
        assert_eq!(reader.next().await.unwrap().event, "queued");
        let lease = fixture.claim().await;
        assert_eq!(reader.next().await.unwrap().event, "started");
        fixture.progress(&lease, 10).await;
        fixture.progress(&lease, 50).await;
        let told = loop {
            let told = reader.next().await.unwrap();
            assert_eq!((told.event.as_str(), &told.id), ("progress", &None));
            // whether the first report was told as well depends on how soon the second came
            if told.data["fraction"] != 0.1 {
                break told;
            }
        };
        assert_eq!(told.data["fraction"], 0.5);
        fixture.post(&format!("/v1/jobs/{id}/cancel"), "").await;
        assert_eq!(reader.next().await.unwrap().event, "cancel_requested");
        fixture.fail(&lease).await;
        assert_eq!(reader.next().await.unwrap().event, "failed");
        let end = reader.next().await.unwrap();
        assert_eq!((end.event.as_str(), &end.data["status"]), ("end", &json!("failed")));
        assert!(reader.next().await.is_none());
    }

    #[tokio::test]
    async fn a_log_longer_than_one_read_is_whole() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        for _ in 0..EVENTS_MAX + 20 {
            fixture.record(&lease, Phase::Merging).await;
        }
        fixture.succeed(&lease).await;
        let ids: Vec<_> =
            stored(&resumed(&fixture, &id, "0").await.frames()).into_iter().map(|f| f.id.unwrap()).collect();
        assert_eq!(ids, (1..=EVENTS_MAX + 23).map(|seq| seq.to_string()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_stream_ends_without_end_when_the_server_stops() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let mut reader = Reader::open(&fixture, &format!("/v1/jobs/{id}/events")).await;
        assert_eq!(reader.next().await.unwrap().event, "snapshot");
        assert_eq!(reader.next().await.unwrap().event, "queued");
        fixture.shutdown.cancel();
        assert!(reader.next().await.is_none());
    }
}
