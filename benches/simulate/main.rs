//! convoy's policy beside those of other servers, on virtual time, where each is at its best.
//!
//! `cargo bench --bench simulate -- [--plots FOLDER] [DEVICE|ARRIVALS]...` runs the dispatcher that serves against fixed
//! delays, preferred sizes, fixed windows and greed, on several devices, under several arrival processes, at 1 % to 300 %
//! of capacity. The peers are tuned by hand for every single load: of all settings that serve as much as any, the best by
//! mean and the best by p99 on one seed, compared with convoy on another. It prints a table and draws plots.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod device;
mod load;
mod ours;
mod peers;
mod plot;
mod world;

use std::path::PathBuf;

use device::{DEVICES, Device};
use load::Arrivals;
use ours::Convoy;
use peers::{Peer, Settings, Since};
use world::{Demand, Figures, Nanos};

const LOADS: [f64; 11] = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0, 3.0];

/// Requests of a run that tunes, and of one that counts, at least.
const TUNING: usize = 6_000;
const COUNTING: usize = 24_000;

/// Deadlines that a run lasts, at least: overload shows only then.
const TUNING_LASTS: f64 = 16.0;
const COUNTING_LASTS: f64 = 32.0;

/// Delays to try, as parts of the time of the best batch.
const DELAYS: [f64; 9] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// Settings that serve this share of what another serves, serve as much.
const SERVES: f64 = 0.999;

/// The figures of everybody at one load.
#[derive(Debug, Clone)]
struct Row {
    load: f64,
    clients: usize,
    ours: Figures,
    /// The best peers by mean, by p99 and by goodput.
    tuned: [(Settings, Figures); 3],
    /// As they come out of the box.
    untuned: [(Settings, Figures); 3],
}

fn serve(device: &Device, demand: Demand, settings: Settings) -> Figures {
    world::run(&mut Peer::new(settings), device, demand)
}

fn ours(device: &Device, demand: Demand) -> Figures {
    let deadline = device.deadline.as_nanos() as Nanos;
    world::run(&mut Convoy::new(device.costs(), deadline), device, demand)
}

/// At least `count`, and as many as come in so many deadlines.
fn requests(device: &Device, demand: Demand, count: usize, deadlines: f64) -> usize {
    let lasts = deadlines * device.deadline.as_secs_f64();
    let count = if demand.arrivals == Arrivals::Bursty { 4 * count } else { count };
    count.max((demand.load * device.capacity() * lasts) as usize)
}

/// Every setting an operator would try: delays and sizes below capacity, sizes and bounds above it.
fn settings(device: &Device, bounded: bool) -> Vec<Settings> {
    let best = device.costs().seconds(device.best_batch()) * 1e9;
    let max = device.max_batch();
    let base = Settings { since: Since::Oldest, delay: 0, max_batch: max, preferred: &[], bound: usize::MAX };
    let mut all = Vec::new();
    for max_batch in [1, 2, 4, max / 8, max / 4, max / 2, max] {
        all.push(Settings { max_batch, ..base });
        if bounded {
            all.extend([1, 2, 3, 4, 8].map(|bound| Settings { max_batch, bound: bound * max_batch, ..base }));
        }
        if max_batch < max / 4 {
            continue;
        }
        for delay in DELAYS {
            let delay = (delay * best) as Nanos;
            all.push(Settings { max_batch, delay, ..base });
            all.push(Settings { max_batch, delay, since: Since::Taken, ..base });
            if max_batch == max {
                all.push(Settings { delay, preferred: &[4, 8, 16, 32], ..base });
            }
        }
    }
    all.dedup();
    all
}

/// What their documentation starts with.
fn defaults(device: &Device) -> [Settings; 3] {
    let max_batch = device.max_batch();
    let base = Settings { since: Since::Oldest, delay: 0, max_batch, preferred: &[], bound: usize::MAX };
    [
        Settings { delay: 5_000_000, preferred: &[8, 16, 32], ..base },
        Settings { since: Since::Taken, delay: 10_000_000, bound: 1024, ..base },
        Settings { bound: 512, ..base },
    ]
}

/// The best by mean and by p99 of all settings that serve as much as convoy, and the best by p99 of those that serve most.
fn tuned(device: &Device, demand: Demand) -> [(Settings, Figures); 3] {
    let count = requests(device, demand, TUNING, TUNING_LASTS);
    let trial = Demand { requests: count, seed: demand.seed + 1, ..demand };
    let bounded = demand.load >= 0.9 && demand.arrivals != Arrivals::Closed;
    let settings = settings(device, bounded).into_iter();
    let tried: Vec<(Settings, Figures)> = settings.map(|one| (one, serve(device, trial, one))).collect();
    let most = tried.iter().map(|(_, figures)| figures.goodput).fold(0.0, f64::max);
    let best = |enough: f64, metric: fn(&Figures) -> f64| {
        let candidates = tried.iter().filter(|(_, figures)| figures.goodput >= SERVES * enough);
        let best = candidates.min_by(|(_, a), (_, b)| metric(a).total_cmp(&metric(b)));
        let &(settings, _) = best.expect("at least the one that serves most");
        (settings, serve(device, demand, settings))
    };
    let enough = most.min(ours(device, trial).goodput);
    [
        best(enough, |figures| figures.mean),
        best(enough, |figures| figures.p99),
        best(most, |figures| figures.p99),
    ]
}

fn row(device: &Device, arrivals: Arrivals, load: f64) -> Row {
    let mut demand = Demand { arrivals, load, requests: 0, seed: 7 };
    demand.requests = requests(device, demand, COUNTING, COUNTING_LASTS);
    Row {
        load,
        clients: demand.clients(device),
        ours: ours(device, demand),
        tuned: tuned(device, demand),
        untuned: defaults(device).map(|settings| (settings, serve(device, demand, settings))),
    }
}

fn print(device: &Device, arrivals: Arrivals, rows: &[Row]) {
    println!(
        "\n{} {}: {:.0}/s at {} a batch, deadline {} ms",
        device.name,
        arrivals.name(),
        device.capacity(),
        device.best_batch(),
        device.deadline.as_millis()
    );
    println!(
        "  load |   mean    p99  good batch refus | x tuned: mean   p99  good | x triton: mean  p99  good | x mosec: mean  p99  good | x greedy: mean  p99  good | best by mean; by p99"
    );
    for row in rows {
        let ours = row.ours;
        let load = match arrivals {
            Arrivals::Closed => format!("{:5}", row.clients),
            _ => format!("{:4.0}%", row.load * 100.0),
        };
        let [mean, p99, good] = row.tuned;
        print!(
            " {load} | {:6.2} {:6.2} {:5.3} {:5.1} {:5.3} |       {:6.3} {:6.3} {:5.3}",
            ours.mean,
            ours.p99,
            ours.goodput,
            ours.mean_batch,
            ours.refused,
            ours.mean / mean.1.mean,
            ours.p99 / p99.1.p99,
            ours.goodput / good.1.goodput
        );
        for (_, theirs) in row.untuned {
            print!(
                " | {:6.3} {:6.3} {:6.3}",
                ours.mean / theirs.mean,
                ours.p99 / theirs.p99,
                (ours.goodput / theirs.goodput).min(99.0)
            );
        }
        println!(" | {}; {}", mean.0.label(), p99.0.label());
        assert!(ours.wasted == 0.0, "an expired request ran");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only wants to see that it runs.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let flag = arguments.iter().position(|argument| argument == "--plots");
    let folder = flag.and_then(|at| arguments.get(at + 1)).map(PathBuf::from);
    let chosen = |name: &str, all: &[&str]| {
        let named = |argument: &String| all.iter().any(|one| one.eq_ignore_ascii_case(argument));
        !arguments.iter().any(named) || arguments.iter().any(|argument| argument.eq_ignore_ascii_case(name))
    };
    for device in &DEVICES {
        for arrivals in Arrivals::ALL {
            if !chosen(device.name, &DEVICES.each_ref().map(|device| device.name))
                || !chosen(arrivals.name(), &Arrivals::ALL.map(Arrivals::name))
            {
                continue;
            }
            let rows: Vec<Row> = LOADS.iter().map(|&load| row(device, arrivals, load)).collect();
            print(device, arrivals, &rows);
            if let Some(folder) = &folder {
                plot::draw(folder, device, arrivals, &rows).expect("plots can be written");
            }
        }
    }
}
