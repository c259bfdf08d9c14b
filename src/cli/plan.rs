//! `convoy plan`: what a network's forward pass comes down to, step by step, as a table or as JSON. Nothing is loaded and
//! nothing runs.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::Args;
use kernels::conv::Kernel;
use serde_json::{Value, json};

use crate::vision::plan::{Plan, Shape, Step};
use crate::vision::{Arch, INPUT_SIZE, cpu};

/// Flags of `convoy plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// resnet18, resnet34, resnet50, resnet101, resnet152 or efficientnet-lite0.
    arch: Arch,
    /// Number of classes.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    classes: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the plan.
pub(super) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let plan = Plan::new(args.arch, usize::from(args.classes), INPUT_SIZE as usize);
    let kernels = cpu::kernels(&plan);
    let text = if args.json { format!("{:#}\n", value(&plan, &kernels)) } else { table(&plan, &kernels)? };
    io::stdout().lock().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// Bytes of the weights as the checkpoint has them, in f32, BatchNorm folded.
fn weight_bytes(step: &Step) -> usize {
    step.parameters() * size_of::<f32>()
}

fn table(plan: &Plan, kernels: &[Kernel]) -> Result<String, fmt::Error> {
    let mut text = format!("{plan}\n\n");
    writeln!(
        text,
        "{:>4}  {:<31} {:<30} {:<10} {:>12}    {:<12} {:<10} {:>8} {:>10}",
        "step", "name", "operation", "kernel", "input", "output", "slots", "MMAC", "KiB"
    )?;
    for (at, (step, kernel)) in plan.steps.iter().zip(kernels).enumerate() {
        writeln!(
            text,
            "{at:>4}  {:<31} {:<30} {kernel:<10} {:>12} -> {:<12} {:<10} {:>8.1} {:>10.1}",
            step.name,
            step.operation(),
            step.input.shape.to_string(),
            step.output.shape.to_string(),
            step.slots(),
            step.macs() as f64 / 1e6,
            weight_bytes(step) as f64 / 1024.0
        )?;
    }
    let bytes: usize = plan.steps.iter().map(weight_bytes).sum();
    writeln!(text, "{:>4}  {:>115.1} {:>10.1}", "all", plan.macs() as f64 / 1e6, bytes as f64 / 1024.0)?;
    Ok(text)
}

fn value(plan: &Plan, kernels: &[Kernel]) -> Value {
    let shape = |shape: Shape| json!([shape.height, shape.width, shape.channels]);
    let step = |(step, kernel): (&Step, &Kernel)| {
        json!({
            "name": step.name,
            "operation": step.operation(),
            "kernel": kernel.to_string(),
            "input": shape(step.input.shape),
            "output": shape(step.output.shape),
            "slots": { "input": step.input.slot, "addend": step.addend.map(|v| v.slot), "output": step.output.slot },
            "macs": step.macs(),
            "weight_bytes": weight_bytes(step),
        })
    };
    json!({
        "network": plan.name,
        "input": shape(plan.input()),
        "classes": plan.classes(),
        "head": plan.head,
        "slots": plan.slots,
        "macs": plan.macs(),
        "weight_bytes": plan.steps.iter().map(weight_bytes).sum::<usize>(),
        "steps": plan.steps.iter().zip(kernels).map(step).collect::<Vec<_>>(),
    })
}
