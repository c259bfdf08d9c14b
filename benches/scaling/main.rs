//! A day, a spike and office hours on a cluster: convoy's own dispatcher in every pod, Kubernetes' HPA, KEDA and cluster
//! autoscaler around them, on virtual time.
//!
//! `cargo bench --bench scaling -- [--plots FOLDER] [grain | POOL | CURVE]...` prints the tables of `k8s/scaling.md` and draws their
//! plots. Pools, strategies and every assumed figure are in `pool.rs`. The same seed brings the same figures.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod cluster;
mod controller;
mod demand;
mod hpa;
mod ledger;
mod line;
#[allow(dead_code, reason = "the scheduler's simulation uses the rest")]
#[path = "../simulate/load.rs"]
mod load;
mod plot;
mod pool;
mod table;
mod world;

use std::path::{Path, PathBuf};

use demand::Curve;
use pool::{POOLS, Pool};

fn scenario(pool: &Pool, curve: Curve, folder: Option<&Path>) {
    let runs = table::figures(pool, curve);
    let whole = runs[0].1.node_hours;
    println!("\n{} pool, {}: {} requests\n\n{}", pool.name, curve.name(), runs[0].1.asked, table::HEAD);
    for (strategy, figures) in &runs {
        println!("{}", table::row(strategy.name, figures, whole));
    }
    if let Some(folder) = folder {
        plot::draw(folder, pool, curve, &runs).expect("plots can be written");
    }
}

/// Photos one by one and in requests of 16, beside the 32 of the tables: what taking a request's photos together leaves out.
fn grain() {
    let pool = Pool::named("GPU").expect("bug: the pool is there");
    let strategy =
        pool.strategies.iter().find(|strategy| strategy.name == "KEDA busy 70 %").expect("bug: it is there");
    let halves = pool.with_points(&[(1, 15.58), (2, 29.30), (4, 53.94)], 16);
    let singles = &[(1, 1.97), (4, 4.96), (8, 8.87), (16, 15.58), (32, 29.30), (64, 53.94)];
    println!("\nGPU pool, spike, {}, by photos in a request\n\n{}", strategy.name, table::HEAD);
    for pool in [*pool, halves, pool.with_points(singles, 1)] {
        let figures = world::run(&pool, strategy, Curve::Spike, table::SEED);
        println!("{}", table::row(&format!("{}", pool.photos), &figures, figures.node_hours));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only wants to see that it runs.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    if arguments.iter().any(|argument| argument == "grain") {
        return grain();
    }
    let flag = arguments.iter().position(|argument| argument == "--plots");
    let folder = flag.and_then(|at| arguments.get(at + 1)).map(PathBuf::from);
    let chosen = |name: &str, all: &[&str]| {
        let named = |argument: &String| all.iter().any(|one| one.eq_ignore_ascii_case(argument));
        !arguments.iter().any(named) || arguments.iter().any(|argument| argument.eq_ignore_ascii_case(name))
    };
    for pool in &POOLS {
        for curve in Curve::ALL {
            let pools = POOLS.each_ref().map(|pool| pool.name);
            if chosen(pool.name, &pools) && chosen(curve.name(), &Curve::ALL.map(Curve::name)) {
                scenario(pool, curve, folder.as_deref());
            }
        }
    }
}
