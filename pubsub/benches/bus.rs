//! What the bus costs: `cargo bench -p holdfast-pubsub --bench bus`, part of `make bench`.
//!
//! | bench                       | one iteration                                                                  |
//! |-----------------------------|--------------------------------------------------------------------------------|
//! | `bus/publish_and_handle`    | 64 rows change, then the one subscriber handles the 64 changes                 |
//! | `bus/tokio_mpsc`            | the same 64 values sent through tokio's unbounded channel, then received       |
//! | `bus/fan_out/<subscribers>` | 1,000 rows change, then every subscriber handles the 1,000 changes             |
//! | `bus/replay/<keys>`         | one more subscriber comes and handles all rows, up to `Synced`                 |
//! | `bus/replay_each/10000`     | the same, of each of ten topics in turn: as many rows as the largest replay    |
//!
//! All of it in one thread: what is measured is work, not waiting. The values are volumemgr's answers, made before the
//! clock starts; each differs from its row's last one only in the operation number, so the bus compares them nearly to
//! their end. Who handles drops what it was given, so the clock sees each value's end too, on both sides.
//!
//! The 64 changes wait together before the first is handled: the subscriber's line is then as long as it can be. The
//! channel is the unbounded one because a publisher on the bus never waits either.
//!
//! Deliberately absent: waking another thread (`tests/src/bench/bus_latency.rs`), and anything durable.

#![allow(missing_debug_implementations, reason = "nothing here is shown")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use holdfast_pubsub::{Bus, Change, Mailbox, Publication, Subscription};
use holdfast_types::{
    AppId, Generation, OperationNumber, RecordedMeta, SnapshotAction, SnapshotId, VolumeId,
    VolumeSnapshotMeta, VolumesSnapshotStatus,
};
use tokio::sync::mpsc;
use uuid::Uuid;

const KEYS: u64 = 64;
const FAN_OUT_KEYS: u64 = 1_000;
const SUBSCRIBERS: [usize; 4] = [1, 2, 4, 8];
const REPLAYED_KEYS: [u64; 3] = [1_000, 10_000, 100_000];
const VOLUMES_EACH: u64 = 2;

/// Ids have no order: neighbours in time are not neighbours in the map.
fn id(kind: u64, number: u64) -> Uuid {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Uuid::from_u64_pair(mixed, mixed.rotate_left(32) ^ kind)
}

fn status(number: u64, operation: u64) -> VolumesSnapshotStatus {
    let meta = |volume: u64| {
        let meta = RecordedMeta {
            handler: "qcow2".to_owned(),
            generation: Generation(1),
            storage_name: format!("holdfast-{}-{volume}", id(1, number)),
            size_bytes: 16 << 30,
        };
        (VolumeId(id(2, number * VOLUMES_EACH + volume)), VolumeSnapshotMeta::Recorded(meta))
    };
    VolumesSnapshotStatus {
        snapshot: SnapshotId(id(1, number)),
        meta: (0..VOLUMES_EACH).map(meta).collect::<BTreeMap<_, _>>(),
        time_created: None,
        app: AppId(id(3, number)),
        ref_count: 0,
        result_of: SnapshotAction::Create,
        operation: OperationNumber(operation),
        error: None,
    }
}

/// Values that differ from all made before.
#[derive(Default)]
struct Values {
    operation: u64,
}

impl Values {
    fn next(&mut self, keys: u64) -> Vec<VolumesSnapshotStatus> {
        self.operation += 1;
        (0..keys).map(|number| status(number, self.operation)).collect()
    }
}

fn publication(bus: &Bus) -> Publication<VolumesSnapshotStatus> {
    bus.publication("volumemgr").expect("nobody else publishes it")
}

fn publish(publication: &mut Publication<VolumesSnapshotStatus>, values: Vec<VolumesSnapshotStatus>) {
    for value in values {
        publication.publish(value).expect("a volatile topic has nothing to fail");
    }
}

/// Handles all that waits; how many changes of rows there were.
fn handle_all(mailbox: &Mailbox<Change<VolumesSnapshotStatus>>) -> u64 {
    let mut rows = 0;
    while let Some(change) = mailbox.try_recv() {
        rows += u64::from(black_box(&change).value().is_some());
    }
    rows
}

fn publish_and_handle(group: &mut BenchmarkGroup<'_, WallTime>) {
    let bus = Bus::new(None);
    let mut publication = publication(&bus);
    let mailbox = Subscription::of(&bus);
    let mut values = Values::default();
    publish(&mut publication, values.next(KEYS));
    assert_eq!(handle_all(&mailbox), KEYS);
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("publish_and_handle", |bencher| {
        bencher.iter_batched(
            || values.next(KEYS),
            |values| {
                publish(&mut publication, values);
                assert_eq!(handle_all(&mailbox), KEYS);
            },
            BatchSize::PerIteration,
        );
    });
}

fn tokio_mpsc(group: &mut BenchmarkGroup<'_, WallTime>) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut values = Values::default();
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("tokio_mpsc", |bencher| {
        bencher.iter_batched(
            || values.next(KEYS),
            |values| {
                for value in values {
                    sender.send(value).expect("the receiver is there");
                }
                let mut received = 0;
                while let Ok(value) = receiver.try_recv() {
                    black_box(&value);
                    received += 1;
                }
                assert_eq!(received, KEYS);
            },
            BatchSize::PerIteration,
        );
    });
}

fn fan_out(group: &mut BenchmarkGroup<'_, WallTime>, subscribers: usize) {
    let bus = Bus::new(None);
    let mut publication = publication(&bus);
    let mailboxes: Vec<_> =
        (0..subscribers).map(|_| Subscription::<VolumesSnapshotStatus>::of(&bus)).collect();
    let handle = || mailboxes.iter().map(handle_all).sum::<u64>();
    let expected = FAN_OUT_KEYS * subscribers as u64;
    let mut values = Values::default();
    publish(&mut publication, values.next(FAN_OUT_KEYS));
    assert_eq!(handle(), expected);
    group.throughput(Throughput::Elements(expected));
    group.bench_function(BenchmarkId::new("fan_out", subscribers), |bencher| {
        bencher.iter_batched(
            || values.next(FAN_OUT_KEYS),
            |values| {
                publish(&mut publication, values);
                assert_eq!(handle(), expected);
            },
            BatchSize::PerIteration,
        );
    });
}

fn replay(group: &mut BenchmarkGroup<'_, WallTime>, keys: u64) {
    let (bus, _publication) = filled(keys);
    group.throughput(Throughput::Elements(keys));
    group.bench_function(BenchmarkId::new("replay", keys), |bencher| {
        bencher.iter(|| assert_eq!(rows_told(&bus), keys));
    });
}

/// Whether the cost per key grows with the keys is seen beside this: the same few rows again and again would be found in
/// the processor's caches, where many do not fit.
fn replay_each(group: &mut BenchmarkGroup<'_, WallTime>, topics: usize, keys: u64) {
    let buses: Vec<_> = (0..topics).map(|_| filled(keys)).collect();
    let mut turns = buses.iter().cycle();
    group.throughput(Throughput::Elements(keys));
    group.bench_function(BenchmarkId::new("replay_each", keys), |bencher| {
        bencher.iter(|| assert_eq!(turns.next().map(|(bus, _)| rows_told(bus)), Some(keys)));
    });
}

/// The rows last as long as their publication.
fn filled(keys: u64) -> (Bus, Publication<VolumesSnapshotStatus>) {
    let bus = Bus::new(None);
    let mut publication = publication(&bus);
    publish(&mut publication, Values::default().next(keys));
    (bus, publication)
}

/// How many rows a new subscriber is told of before `Synced`.
fn rows_told(bus: &Bus) -> u64 {
    let mailbox = Subscription::<VolumesSnapshotStatus>::of(bus);
    let told = std::iter::from_fn(|| mailbox.try_recv());
    told.take_while(|change| !matches!(black_box(change), Change::Synced)).map(|_| 1).sum()
}

fn bus(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bus");
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    publish_and_handle(&mut group);
    tokio_mpsc(&mut group);
    SUBSCRIBERS.into_iter().for_each(|subscribers| fan_out(&mut group, subscribers));
    REPLAYED_KEYS.into_iter().for_each(|keys| replay(&mut group, keys));
    replay_each(&mut group, 10, 10_000);
    group.finish();
}

criterion_group!(benches, bus);
criterion_main!(benches);
