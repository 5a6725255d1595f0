//! What many event streams cost a server: memory of each, and how long an event takes to all of them.
//!
//! `cargo bench -p api --bench streams`; `-- --test` runs it at a small size. The server is a process of its own, this one again.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed measurement, and the panic says where")]

mod served;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Api;
use client::Client;
use jobs::Store;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use served::{RECIPE, config};

const STREAMS: usize = 5_000;
const STREAMS_OF_TEST: usize = 100;
/// Events that are waited for at all streams.
const EVENTS: usize = 20;
/// Jobs that are followed, of streams that follow one each.
const JOBS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut args = std::env::args().skip_while(|arg| arg != "--serve").skip(1);
    match args.next() {
        Some(database) => runtime.block_on(serve(&database)),
        None => runtime.block_on(measure()),
    }
}

async fn serve(database: &str) {
    let store = Store::open(database).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    api::serve(listener, Api::new(store, Arc::new(config()), CancellationToken::new())).await.unwrap();
}

async fn measure() {
    let count = if std::env::args().any(|arg| arg == "--test") { STREAMS_OF_TEST } else { STREAMS };
    println!(
        "streams of          open  memory before, after      a stream  event at half of them, at 99 %, at all  processor"
    );
    let dir = tempfile::tempdir().unwrap();
    one("all jobs", &format!("sqlite://{}/all.db", dir.path().display()), count, false).await;
    one("one job each", &format!("sqlite://{}/each.db", dir.path().display()), count, true).await;
    match testkit::postgres::fresh_database() {
        Ok(url) => one("all, postgres", &url, count, false).await,
        Err(reason) => println!("postgres is not measured: {reason}"),
    }
}

struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(database: &str) -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--serve", database]).current_dir(testkit::workspace()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Server { process, url: url.trim().to_owned() }
    }

    fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// User and system.
    fn processor(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn one(name: &str, database: &str, count: usize, each: bool) {
    let server = Server::start(database);
    let client = Client::new(&server.url).unwrap();
    let mut jobs = Vec::new();
    for _ in 0..JOBS.min(count) {
        jobs.push(client.submit(RECIPE.to_owned(), &[]).await.unwrap()["id"].as_str().unwrap().to_owned());
    }
    let before = server.resident_bytes();
    let (heard, mut hears) = mpsc::unbounded_channel();
    for at in 0..count {
        let path = if each { format!("/v1/jobs/{}/events", jobs[at % jobs.len()]) } else { "/v1/events".to_owned() };
        follow(&server.url, &path, heard.clone()).await;
    }
    let after = server.resident_bytes();
    let processor = server.processor();
    let mut delays = Vec::new();
    let rounds = if each { jobs.len().min(EVENTS) } else { EVENTS };
    for id in jobs.iter().take(rounds) {
        // a queued job that is cancelled has one event more
        let hearers = if each { count.div_ceil(jobs.len()) } else { count };
        while hears.try_recv().is_ok() {}
        let begun = Instant::now();
        client.cancel(id).await.unwrap();
        let mut of_round = Vec::new();
        while of_round.len() < hearers.min(count) {
            let at: Instant = tokio::time::timeout(PATIENCE, hears.recv()).await.expect("every stream hears").unwrap();
            of_round.push(at.saturating_duration_since(begun));
        }
        of_round.sort();
        let part = |part: f64| of_round[((of_round.len() - 1) as f64 * part) as usize];
        delays.push([part(0.5), part(0.99), part(1.0)]);
    }
    delays.sort();
    let [half, most, all] = delays[delays.len() / 2].map(|delay| delay.as_secs_f64() * 1000.0);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{name:<18} {count:>5}  {:>6.0} MiB, {:>6.0} MiB  {:>6.1} KiB  {half:>8.0} ms, {most:>8.0} ms, {all:>8.0} ms  {:>5.1} ms an event",
        mib(before),
        mib(after),
        (after.saturating_sub(before)) as f64 / 1024.0 / count as f64,
        (server.processor() - processor).as_secs_f64() * 1000.0 / rounds as f64,
    );
}

/// Opens a stream and tells when an event comes that is about a cancelled job.
async fn follow(url: &str, path: &str, heard: mpsc::UnboundedSender<Instant>) {
    let address = url.strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 2048];
    let mut text = Vec::new();
    // open when the snapshot has begun to come
    while !String::from_utf8_lossy(&text).contains("event: snapshot") {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..read]);
    }
    tokio::spawn(async move {
        // what may be cut by the end of a read
        let mut tail = Vec::new();
        loop {
            match stream.read(&mut buffer).await {
                Ok(read) if read > 0 => tail.extend_from_slice(&buffer[..read]),
                _ => return,
            }
            let text = String::from_utf8_lossy(&tail).into_owned();
            for _ in text.matches("event: cancelled").take(1) {
                if heard.send(Instant::now()).is_err() {
                    return;
                }
                tail.clear();
            }
            let keep = tail.len().min(32);
            tail = tail.split_off(tail.len() - keep);
        }
    });
}
