//! One reader of the log for every stream of this server: it reads what is written once, and hands it to whoever follows it.
//!
//! Invariants: nothing is buffered for a stream. A topic keeps the newest events for all who follow it; whoever falls behind
//! these reads the database again from where it is. Whoever subscribes before it reads the database misses nothing.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures::FutureExt;
use jobs::{EventKind, JobId, PlacedEvent, RunningProgress, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::StreamLimits;
use crate::caller::Caller;
use crate::event_object::EventObject;
use crate::frame::{frame, of_event};
use crate::job_object::{JobObject, ProgressObject};
use crate::problem::{Code, Problem, Result};

/// Longest time between two looks at the log: what other processes write to a SQLite file is not heard of.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Shortest time between two, so that a burst is read at once.
const REST: Duration = Duration::from_millis(10);
/// Shortest time between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// A stream outlives its key by no more than this.
const CHECK_EVERY: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(4) };
/// A connection to the database may be to nobody.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(20);
/// Events read at once.
const EVENTS_MAX: u32 = 500;
/// Events that a topic keeps.
const RECENT_MAX: usize = 64;

/// What a stream follows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Job(JobId),
    /// All jobs of a tenant.
    Tenant(String),
}

pub(crate) struct Live {
    store: Store,
    limits: StreamLimits,
    topics: Mutex<Topics>,
    /// Open streams of each key.
    callers: Mutex<HashMap<String, usize>>,
    ended_keys: Mutex<HashSet<String>>,
    /// Whether the reader knows where it is.
    is_reading: watch::Sender<bool>,
}

struct Topics {
    followed: HashMap<Subject, Weak<Topic>>,
    /// Up to where the log is read.
    position: i64,
    /// Up to where forgotten events are known to be.
    pruned: i64,
}

/// What is told to all who follow the same.
pub(crate) struct Topic {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    recent: VecDeque<Told>,
    /// Where the newest event stands that was told and is kept no longer.
    forgotten: i64,
    /// Of each job, with a number that rises with each report.
    progress: HashMap<JobId, (u64, Arc<str>)>,
    reports: u64,
    /// Of a job that is over: its last event, and how it stands.
    end: Option<(i64, Arc<str>)>,
    /// Whether the job is over or gone without that having been told: with the second look that finds it so it is told.
    missed: Missed,
}

/// How often a job was found to be over whose end is not told.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Missed {
    #[default]
    Never,
    Once,
    Surely,
}

/// An event on its way to streams.
#[derive(Clone)]
struct Told {
    /// Its number in what the topic is about: of a job its own log, of a tenant the log of all.
    number: i64,
    frame: Arc<str>,
}

/// What a topic has for whoever stands at a certain place.
pub(crate) enum Recent {
    /// Frames of everything behind it, with the number of the last; none where there is nothing.
    Frames(Vec<String>, i64),
    /// More has happened than is kept.
    Behind,
}

/// A subscription. It ends when dropped.
pub(crate) struct Subscription {
    live: Arc<Live>,
    topic: Arc<Topic>,
    subject: Subject,
    changed: watch::Receiver<()>,
    key: String,
    /// The newest report of progress that was taken.
    report: u64,
}

impl Live {
    /// Reads until `shutdown`, or until the store is closed.
    pub(crate) fn start(store: Store, limits: StreamLimits, shutdown: CancellationToken) -> Arc<Live> {
        let live = Arc::new(Live {
            store,
            limits,
            topics: Mutex::new(Topics { followed: HashMap::new(), position: 0, pruned: 0 }),
            callers: Mutex::default(),
            ended_keys: Mutex::default(),
            is_reading: watch::channel(false).0,
        });
        tokio::spawn(forever(Arc::downgrade(&live), shutdown.clone(), |live, shutdown| Box::pin(read(live, shutdown))));
        tokio::spawn(forever(Arc::downgrade(&live), shutdown, |live, shutdown| Box::pin(check(live, shutdown))));
        live
    }

    /// Refused where the server or the caller has too many streams. To be called before the database is read for what has
    /// been: everything after is then told.
    pub(crate) async fn subscribe(self: &Arc<Self>, caller: &Caller, subject: Subject) -> Result<Subscription> {
        self.admit(&caller.key)?;
        let topic = {
            let mut topics = lock(&self.topics);
            let topic = topics.followed.get(&subject).and_then(Weak::upgrade);
            topic.unwrap_or_else(|| {
                let topic = Arc::new(Topic { state: Mutex::default(), changed: watch::channel(()).0 });
                topics.followed.insert(subject.clone(), Arc::downgrade(&topic));
                topic
            })
        };
        let changed = topic.changed.subscribe();
        let subscription =
            Subscription { live: self.clone(), topic, subject, changed, key: caller.key.clone(), report: 0 };
        // at once but for the first moment of a server
        let mut is_reading = self.is_reading.subscribe();
        let begun = tokio::time::timeout(LOOK_EVERY * 4, is_reading.wait_for(|is| *is)).await;
        match begun {
            Ok(Ok(_)) => Ok(subscription),
            _ => Err(Problem::new(Code::Unavailable, "the database does not answer; try again")),
        }
    }

    fn admit(&self, key: &str) -> Result<()> {
        let mut callers = lock(&self.callers);
        let all: usize = callers.values().sum();
        if all >= self.limits.max {
            let detail = format!("this server has {all} open streams, and takes no more");
            return Err(Problem::new(Code::Unavailable, detail));
        }
        let streams = callers.get(key).copied().unwrap_or_default();
        // where no keys are asked for, they are all of one
        if !key.is_empty() && streams >= self.limits.per_key_max {
            let detail =
                format!("this key has {streams} open streams; close some, or follow all jobs by `GET /v1/events`");
            return Err(Problem::new(Code::TooManyStreams, detail));
        }
        callers.insert(key.to_owned(), streams + 1);
        Ok(())
    }

    fn leave(&self, subscription: &Subscription) {
        {
            let mut callers = lock(&self.callers);
            if let Entry::Occupied(mut streams) = callers.entry(subscription.key.clone()) {
                *streams.get_mut() -= 1;
                if *streams.get() == 0 {
                    streams.remove();
                }
            }
        }
        let mut topics = lock(&self.topics);
        // only this subscription still holds it: nobody can take it up without the lock
        if Arc::strong_count(&subscription.topic) == 1 {
            topics.followed.remove(&subscription.subject);
        }
    }

    /// How many are open.
    #[cfg(test)]
    pub(crate) fn streams(&self) -> usize {
        lock(&self.callers).values().sum()
    }

    fn topic(&self, subject: &Subject) -> Option<Arc<Topic>> {
        lock(&self.topics).followed.get(subject).and_then(Weak::upgrade)
    }

    /// Two who left at once may each have left the topic to the other.
    fn is_followed(&self) -> bool {
        let mut topics = lock(&self.topics);
        topics.followed.retain(|_, topic| topic.strong_count() > 0);
        !topics.followed.is_empty()
    }

    /// Goes on from the newest event where nobody follows anything; whoever begins now reads the database later than this.
    async fn skip(&self) -> jobs::Result<()> {
        // whoever begins from now on begins behind what was written before
        self.store.place_events().await?;
        let last = self.store.last_position().await?;
        let mut topics = lock(&self.topics);
        if topics.followed.is_empty() || !*self.is_reading.borrow() {
            topics.position = topics.position.max(last);
        }
        Ok(())
    }

    /// Reads what is new and tells it.
    async fn look(&self) -> jobs::Result<()> {
        if !self.is_followed() {
            return self.skip().await;
        }
        self.store.place_events().await?;
        loop {
            let position = lock(&self.topics).position;
            let placed = self.store.log_behind(position, None, EVENTS_MAX).await?;
            let Some(last) = placed.last().map(|placed| placed.position) else { return self.tell_forgotten().await };
            for placed in placed {
                self.tell(placed).await?;
            }
            lock(&self.topics).position = last;
        }
    }

    /// Whoever has not read so far has missed something, and is to begin anew.
    async fn tell_forgotten(&self) -> jobs::Result<()> {
        let known = lock(&self.topics).pruned;
        for (tenant, position) in self.store.pruned_behind(known).await? {
            lock(&self.topics).pruned = position;
            if let Some(topic) = self.topic(&Subject::Tenant(tenant)) {
                topic.forget(position);
            }
        }
        Ok(())
    }

    async fn tell(&self, placed: PlacedEvent) -> jobs::Result<()> {
        let PlacedEvent { position, tenant, event } = placed;
        let (of_job, of_tenant) =
            (self.topic(&Subject::Job(event.job_id.clone())), self.topic(&Subject::Tenant(tenant)));
        if of_job.is_none() && of_tenant.is_none() {
            return Ok(());
        }
        let (id, seq, ends) = (event.job_id.clone(), event.seq, event.kind.is_terminal());
        let rests =
            ends || matches!(event.kind, EventKind::RetryScheduled | EventKind::Released | EventKind::LeaseExpired);
        let frame: Arc<str> = of_event(&EventObject::from(event)).into();
        if let Some(topic) = of_tenant {
            topic.tell(Told { number: position, frame: frame.clone() }, rests.then_some(&id), None);
        }
        let Some(topic) = of_job else { return Ok(()) };
        let over = if ends { self.store.job(&id).await? } else { None };
        let end = over.map(|job| (seq, frame_of_end(&JobObject::from(job))));
        topic.tell(Told { number: seq, frame }, rests.then_some(&id), end);
        Ok(())
    }

    async fn tell_progress(&self) -> jobs::Result<()> {
        if !self.is_followed() {
            return Ok(());
        }
        for running in self.store.running_progress().await? {
            let RunningProgress { job_id, tenant, progress } = running;
            let object = ProgressObject::from(&progress);
            if let Some(topic) = self.topic(&Subject::Job(job_id.clone())) {
                topic.report(&job_id, frame("progress", &object));
            }
            if let Some(topic) = self.topic(&Subject::Tenant(tenant)) {
                topic.report(&job_id, frame("progress", &object.of_job(&job_id)));
            }
        }
        Ok(())
    }

    /// Finds jobs that are over or gone and whose end was not told, as of those deleted before their last event was read.
    async fn check_jobs(&self) -> jobs::Result<()> {
        let open: Vec<(JobId, Arc<Topic>)> = {
            let topics = lock(&self.topics);
            let of_jobs = topics.followed.iter().filter_map(|(subject, topic)| match subject {
                Subject::Job(id) => Some((id.clone(), topic.upgrade()?)),
                Subject::Tenant(_) => None,
            });
            of_jobs.filter(|(_, topic)| lock(&topic.state).end.is_none()).collect()
        };
        let ids: Vec<JobId> = open.iter().map(|(id, _)| id.clone()).collect();
        let unfinished = self.store.unfinished(&ids).await?;
        open.iter().filter(|(id, _)| !unfinished.contains(id)).for_each(|(_, topic)| topic.miss());
        Ok(())
    }

    /// Finds the keys that have ended and wakes their streams.
    async fn check_keys(&self) -> jobs::Result<()> {
        let keys: Vec<String> = lock(&self.callers).keys().cloned().collect();
        let mut ended = HashSet::new();
        for key in keys {
            if !self.store.is_good_key(&key).await? {
                ended.insert(key);
            }
        }
        let has_more = ended.iter().any(|key| !lock(&self.ended_keys).contains(key));
        *lock(&self.ended_keys) = ended;
        if has_more {
            let topics: Vec<_> = lock(&self.topics).followed.values().filter_map(Weak::upgrade).collect();
            for topic in topics {
                let _ = topic.changed.send(());
            }
        }
        Ok(())
    }
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Begins a task again that panicked: nobody else would tell streams anything.
async fn forever(live: Weak<Live>, shutdown: CancellationToken, task: fn(Weak<Live>, CancellationToken) -> Task) {
    while AssertUnwindSafe(task(live.clone(), shutdown.clone())).catch_unwind().await.is_err() {
        tracing::error!("the reader of event streams broke off, and begins again");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Beside the reader, which must not wait for it.
async fn check(live: Weak<Live>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
        let Some(live) = live.upgrade().filter(|live| live.store.is_open()) else { return };
        let checked = async {
            live.check_keys().await?;
            live.check_jobs().await
        };
        let checked = tokio::time::timeout(CALL_MAX, checked).await;
        if let Err(error) = checked.unwrap_or_else(|_| Err(jobs::JobsError::no_answer(CALL_MAX))) {
            tracing::warn!(%error, "keys of event streams are not checked: the database does not answer");
        }
    }
}

async fn read(live: Weak<Live>, shutdown: CancellationToken) {
    let mut progress_at = Instant::now();
    loop {
        let Some(live) = live.upgrade().filter(|live| live.store.is_open()) else { return };
        let looked = async {
            if !*live.is_reading.borrow() {
                live.skip().await?;
                live.is_reading.send_replace(true);
            }
            live.look().await?;
            if progress_at.elapsed() >= PROGRESS_EVERY {
                progress_at = Instant::now();
                live.tell_progress().await?;
            }
            Ok::<_, jobs::JobsError>(())
        };
        let looked = tokio::select! {
            looked = tokio::time::timeout(CALL_MAX, looked) => looked,
            () = shutdown.cancelled() => return,
        };
        if let Err(error) = looked.unwrap_or_else(|_| Err(jobs::JobsError::no_answer(CALL_MAX))) {
            tracing::warn!(%error, "event streams wait: the database does not answer");
        }
        let store = live.store.clone();
        drop(live);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = store.changed(LOOK_EVERY) => tokio::time::sleep(REST).await,
        }
    }
}

impl Topic {
    /// What was before is to be read from the database, which knows what is missing.
    fn forget(&self, position: i64) {
        {
            let mut state = lock(&self.state);
            state.forgotten = state.forgotten.max(position);
        }
        let _ = self.changed.send(());
    }

    /// The job is over or gone. Its end may still come: with the second time it does not.
    fn miss(&self) {
        {
            let mut state = lock(&self.state);
            state.missed = if state.missed == Missed::Never { Missed::Once } else { Missed::Surely };
            if state.missed == Missed::Once {
                return;
            }
        }
        let _ = self.changed.send(());
    }

    /// `over` is the job that ended with this.
    fn tell(&self, told: Told, over: Option<&JobId>, end: Option<(i64, Arc<str>)>) {
        {
            let mut state = lock(&self.state);
            // told again where the database failed in between
            if state.recent.back().is_some_and(|last| last.number >= told.number) {
                return;
            }
            state.recent.push_back(told);
            if state.recent.len() > RECENT_MAX
                && let Some(oldest) = state.recent.pop_front()
            {
                state.forgotten = oldest.number;
            }
            if let Some(id) = over {
                state.progress.remove(id);
            }
            state.end = end.or(state.end.take());
        }
        let _ = self.changed.send(());
    }

    fn report(&self, id: &JobId, frame: String) {
        {
            let mut state = lock(&self.state);
            let is_over = state.end.is_some();
            if is_over || state.progress.get(id).is_some_and(|(_, told)| **told == *frame) {
                return;
            }
            state.reports += 1;
            let number = state.reports;
            state.progress.insert(id.clone(), (number, frame.into()));
        }
        let _ = self.changed.send(());
    }
}

impl Subscription {
    /// What has been told behind `number`, in order.
    pub(crate) fn behind(&self, number: i64) -> Recent {
        let state = lock(&self.topic.state);
        if state.forgotten > number {
            return Recent::Behind;
        }
        let from = state.recent.partition_point(|told| told.number <= number);
        let frames = state.recent.range(from..).map(|told| format!("id: {}\n{}", told.number, told.frame)).collect();
        Recent::Frames(frames, state.recent.back().map_or(number, |last| last.number.max(number)))
    }

    /// Reports of progress that were not taken yet.
    pub(crate) fn reports(&mut self) -> Vec<Arc<str>> {
        let state = lock(&self.topic.state);
        let mut reports: Vec<_> = state.progress.values().filter(|(number, _)| *number > self.report).collect();
        reports.sort_by_key(|(number, _)| *number);
        let frames = reports.into_iter().map(|(_, frame)| frame.clone()).collect();
        self.report = state.reports;
        frames
    }

    /// Of a job that is over: the number of its last event, and the last frame of its streams.
    pub(crate) fn end(&self) -> Option<(i64, Arc<str>)> {
        lock(&self.topic.state).end.clone()
    }

    /// Whether the job is over or gone, and that was not told.
    pub(crate) fn has_missed_the_end(&self) -> bool {
        lock(&self.topic.state).missed == Missed::Surely
    }

    /// Whether its key may no longer be used.
    pub(crate) fn is_ended(&self) -> bool {
        lock(&self.live.ended_keys).contains(&self.key)
    }

    /// Until something is told that was not when this was last called.
    pub(crate) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // it holds the topic itself
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.live.clone().leave(self);
    }
}

fn frame_of_end(job: &JobObject) -> Arc<str> {
    frame("end", job).into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use jobs::{NewKey, Scope};
    use serde_json::json;

    use crate::testing::{Answer, Fixture, Reader};

    const STREAM: (&str, &str) = ("accept", "text/event-stream");

    async fn told(reader: &mut Reader, count: usize) -> Vec<(String, String, String)> {
        let mut told = Vec::new();
        while told.len() < count {
            let frame = reader.next().await.expect("it goes on");
            if let Some(id) = frame.id.filter(|_| frame.event != "snapshot") {
                told.push((id, frame.event, frame.data["job_id"].as_str().unwrap().to_owned()));
            }
        }
        told
    }

    #[tokio::test]
    async fn a_stream_of_all_jobs_begins_with_those_under_way_and_tells_what_happens() {
        let fixture = Fixture::new().await;
        let waiting = fixture.submit().await;
        let mut reader = Reader::open(&fixture, "/v1/events").await;
        let snapshot = reader.next().await.unwrap();
        assert_eq!((snapshot.event.as_str(), snapshot.id.as_deref()), ("snapshot", Some("1")));
        assert_eq!(snapshot.data["data"][0]["id"], waiting.as_str());
        assert_eq!(snapshot.data["data"][0].get("recipe"), None, "a snapshot is small");
        let lease = fixture.claim().await;
        fixture.progress(&lease, 50).await;
        let started = reader.next().await.unwrap();
        assert_eq!(
            (started.event.as_str(), started.id.as_deref(), &started.data["id"]),
            ("started", Some("2"), &json!("2"))
        );
        let progress = reader.next().await.unwrap();
        assert_eq!((progress.event.as_str(), &progress.id), ("progress", &None));
        assert_eq!((&progress.data["job_id"], &progress.data["fraction"]), (&json!(waiting.as_str()), &json!(0.5)));
        fixture.succeed(&lease).await;
        let second = fixture.submit().await;
        assert_eq!(
            told(&mut reader, 2).await,
            [("3".into(), "succeeded".into(), waiting.to_string()), ("4".into(), "queued".into(), second.to_string())]
        );
    }

    #[tokio::test]
    async fn a_stream_of_all_jobs_cut_anywhere_goes_on_without_a_gap() {
        let fixture = Fixture::new().await;
        for _ in 0..3 {
            fixture.submit().await;
            let lease = fixture.claim().await;
            fixture.succeed(&lease).await;
        }
        let list = fixture.get("/v1/events?limit=100").await.json();
        assert_eq!((list["next_cursor"].as_str(), list["has_more"].as_bool()), (Some("9"), Some(false)));
        for cut in 0..9 {
            let mut reader = Reader::open(&fixture, &format!("/v1/events?after={cut}")).await;
            let rest = told(&mut reader, 9 - cut).await;
            let ids: Vec<String> = rest.iter().map(|it| it.0.clone()).collect();
            assert_eq!(ids, (cut + 1..=9).map(|id| id.to_string()).collect::<Vec<_>>());
            let page = fixture.get(&format!("/v1/events?after={cut}&limit=100")).await.json();
            assert_eq!(page["data"].as_array().unwrap().len(), 9 - cut);
        }
        for wrong in ["10", "-1", "x"] {
            let expected = if wrong == "10" { 200 } else { 400 };
            assert_eq!(fixture.get(&format!("/v1/events?after={wrong}")).await.status, expected);
            let answer = fixture.send(Method::GET, "/v1/events", &[STREAM, ("last-event-id", wrong)], "").await;
            assert_eq!(answer.status, 400, "{wrong}");
        }
    }

    #[tokio::test]
    async fn whoever_missed_forgotten_events_is_told_so() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        fixture.succeed(&lease).await;
        fixture.submit().await;
        assert_eq!(fixture.send(Method::DELETE, &format!("/v1/jobs/{id}"), &[], "").await.status, 204);
        let mut reader = Reader::open(&fixture, "/v1/events?after=1").await;
        assert_eq!(reader.next().await.unwrap().event, "reset");
        let snapshot = reader.next().await.unwrap();
        assert_eq!((snapshot.event.as_str(), snapshot.id.as_deref()), ("snapshot", Some("4")));
        assert_eq!(fixture.get("/v1/events?after=1").await.json()["is_pruned"], true);
        let whole = fixture.get("/v1/events?after=3").await.json();
        assert_eq!((whole["is_pruned"].as_bool(), whole["data"].as_array().unwrap().len()), (Some(false), 1));
    }

    #[tokio::test]
    async fn a_stream_of_a_job_that_is_deleted_before_its_end_was_read_ends_and_one_of_all_begins_anew() {
        let fixture = Fixture::new().await;
        let (id, other) = (fixture.submit().await, fixture.submit().await);
        let mut of_job = Reader::open(&fixture, &format!("/v1/jobs/{id}/events")).await;
        let mut of_all = Reader::open(&fixture, "/v1/events").await;
        assert_eq!(of_all.next().await.unwrap().event, "snapshot");
        // of another process nothing is heard: the reader comes by when both are done
        let beside = jobs::Store::open(&format!("sqlite://{}/jobs.db", fixture.path().display())).await.unwrap();
        beside.request_cancel(&id).await.unwrap();
        beside.delete_job(&id).await.unwrap();
        beside.request_cancel(&other).await.unwrap();
        while let Some(frame) = of_job.next().await {
            assert!(["snapshot", "queued", "reset", "cancelled", "end"].contains(&frame.event.as_str()), "{frame:?}");
        }
        let mut told = Vec::new();
        while !told.iter().any(|it| it == "snapshot" || it == "cancelled") {
            told.push(of_all.next().await.unwrap().event);
        }
        assert!(told == ["reset", "snapshot"] || told[0] == "cancelled", "{told:?}");
        assert_eq!(fixture.get("/v1/events?after=1").await.json()["is_pruned"], true);
    }

    #[tokio::test]
    async fn topics_that_nobody_follows_are_forgotten() {
        let fixture = Fixture::new().await;
        let api = fixture.api();
        let caller = crate::caller::Caller::default();
        let subject = super::Subject::Job(jobs::JobId::generate());
        let subscription = api.live.subscribe(&caller, subject.clone()).await.unwrap();
        // as the reader has it while it tells something: whoever leaves then leaves the topic behind
        let told = api.live.topic(&subject);
        drop(subscription);
        assert!(told.is_some() && api.live.is_followed());
        drop(told);
        assert!(!api.live.is_followed() && api.live.streams() == 0);
        assert!(super::lock(&api.live.topics).followed.is_empty());
    }

    #[tokio::test]
    async fn a_burst_longer_than_what_is_kept_is_told_whole() {
        let fixture = Fixture::new().await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        let mut of_job = Reader::open(&fixture, &format!("/v1/jobs/{id}/events")).await;
        let mut of_all = Reader::open(&fixture, "/v1/events").await;
        assert_eq!(of_all.next().await.unwrap().event, "snapshot");
        for _ in 0..super::RECENT_MAX * 3 {
            fixture.record(&lease, jobs::Phase::Merging).await;
        }
        let last = 2 + super::RECENT_MAX * 3;
        let ids = |told: Vec<(String, String, String)>| told.into_iter().map(|it| it.0).collect::<Vec<_>>();
        let expected = |from: usize| (from..=last).map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!(ids(told(&mut of_job, last).await), expected(1));
        assert_eq!(ids(told(&mut of_all, last - 2).await), expected(3));
    }

    #[tokio::test]
    async fn nobody_hears_of_anothers_jobs() {
        let fixture = Fixture::new().await;
        let (a, b) = (fixture.key("a", &Scope::ALL).await, fixture.key("b", &Scope::ALL).await);
        let mut reader = Reader::open_as(&fixture, "/v1/events", &[("authorization", a.as_str())]).await;
        assert_eq!(reader.next().await.unwrap().data["data"], json!([]));
        fixture.submit_as(&b).await;
        let own = fixture.submit_as(&a).await;
        assert_eq!(told(&mut reader, 1).await[0].2, own);
        let list = fixture.send(Method::GET, "/v1/events", &[("authorization", b.as_str())], "").await.json();
        assert_eq!(list["data"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_key_has_so_many_streams_and_the_server_so_many() {
        let fixture = Fixture::new().await;
        let (a, b) = (fixture.key("a", &Scope::ALL).await, fixture.key("b", &Scope::ALL).await);
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(Reader::open_as(&fixture, "/v1/events", &[("authorization", a.as_str())]).await);
        }
        let ask =
            async |key: &str| fixture.respond(Method::GET, "/v1/events", &[STREAM, ("authorization", key)], "").await;
        let answer = Answer::of(ask(&a).await).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (429, Some("too_many_streams")));
        assert_ne!(answer.header("retry-after"), "");
        for _ in 0..2 {
            open.push(Reader::open_as(&fixture, "/v1/events", &[("authorization", b.as_str())]).await);
        }
        assert_eq!(Answer::of(ask(&b).await).await.status, 503);
        open.remove(0);
        assert_eq!(ask(&a).await.status(), 200, "one that ended is not counted");
    }

    #[tokio::test]
    async fn a_stream_ends_soon_after_its_key() {
        let fixture = Fixture::new().await;
        let key = fixture.key("a", &Scope::ALL).await;
        let mut reader = Reader::open_as(&fixture, "/v1/events", &[("authorization", key.as_str())]).await;
        assert_eq!(reader.next().await.unwrap().event, "snapshot");
        fixture.store.revoke_key(key.split('_').nth(1).unwrap()).await.unwrap();
        assert!(reader.next().await.is_none());
    }

    #[tokio::test]
    async fn a_ticket_opens_one_stream_and_nothing_else() {
        let fixture = Fixture::new().await;
        let key = fixture.key("a", &Scope::ALL).await;
        let id = fixture.submit_as(&key).await;
        let ticket = async |key: &str| {
            let answer = fixture.send(Method::POST, "/v1/stream-tickets", &[("authorization", key)], "").await;
            assert_eq!(answer.status, 201, "{}", answer.text());
            answer.json()["ticket"].as_str().unwrap().to_owned()
        };
        let status = async |path: String, headers: &[(&str, &str)]| {
            fixture.respond(Method::GET, &path, headers, "").await.status().as_u16()
        };
        for path in ["/v1/events".to_owned(), format!("/v1/jobs/{id}/events")] {
            let ticket = ticket(&key).await;
            assert_eq!(status(format!("{path}?ticket={ticket}"), &[]).await, 401, "of a list it is none");
            for other in [format!("/v1/jobs/{id}?ticket={ticket}"), format!("/v1/jobs?ticket={ticket}")] {
                assert_eq!(status(other, &[STREAM]).await, 401);
            }
            assert_eq!(status(format!("{path}?ticket={ticket}"), &[STREAM]).await, 200);
            assert_eq!(status(format!("{path}?ticket={ticket}"), &[STREAM]).await, 401, "it is good once");
        }
        let late = ticket(&key).await;
        fixture.store.revoke_key(key.split('_').nth(1).unwrap()).await.unwrap();
        assert_eq!(status(format!("/v1/events?ticket={late}"), &[STREAM]).await, 401, "its key is revoked");
        let write_only = NewKey {
            name: "w".into(),
            tenant: "a".into(),
            scopes: [Scope::JobsWrite].into(),
            expires_at: None,
            adopts: false,
        };
        let (_, secret) = fixture.store.create_key(write_only).await.unwrap();
        let bearer = format!("Bearer {}", secret.reveal());
        let answer = fixture.send(Method::POST, "/v1/stream-tickets", &[("authorization", &bearer)], "").await;
        assert_eq!(answer.status, 403);
    }
}
