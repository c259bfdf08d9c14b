//! A plan as a table to read.

use std::fmt;

use super::super::arch::Activation;
use super::{Op, Plan, Shape, Step, Window};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (image, parameters) = (self.input(), self.steps.iter().map(Step::parameters).sum::<usize>());
        writeln!(
            f,
            "{}: {} steps on {image}, {:.1} million multiply-adds, {:.2} million parameters",
            self.name,
            self.steps.len(),
            self.macs() as f64 / 1e6,
            parameters as f64 / 1e6
        )?;
        let elements: usize = self.slots.iter().sum();
        writeln!(
            f,
            "{} slots, {:.2} million elements an image: {:?}",
            self.slots.len(),
            elements as f64 / 1e6,
            self.slots
        )?;
        writeln!(
            f,
            "{:>4}  {:<22} {:<30} {:>12}    {:<12} {:<10} {:>8} {:>8} {:>8}",
            "step", "name", "operation", "input", "output", "slots", "MMAC", "weights", "moved"
        )?;
        self.steps.iter().enumerate().try_for_each(|(at, step)| writeln!(f, "{at:>4}  {step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut slots = format!("{} > {}", self.input.slot, self.output.slot);
        let mut op = self.op.to_string();
        if let Some(addend) = self.addend {
            slots = format!("{} + {} > {}", self.input.slot, addend.slot, self.output.slot);
            op = op.replacen(" bias", " bias shortcut", 1);
        }
        write!(
            f,
            "{:<22} {op:<30} {:>12} -> {:<12} {slots:<10} {:>8.1} {:>8} {:>8}",
            self.name,
            self.input.shape.to_string(),
            self.output.shape.to_string(),
            self.macs() as f64 / 1e6,
            self.parameters(),
            self.traffic()
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Conv { window, depthwise, activation } => {
                let kind = if *depthwise { "depthwise" } else { "conv" };
                write!(f, "{kind} {window} bias{activation}")
            }
            Op::MaxPool { window } => write!(f, "max {window}"),
            Op::AveragePool => write!(f, "mean"),
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{0}x{0}/{1}", self.kernel, self.stride)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activation::Linear => "",
            Activation::Relu => " relu",
            Activation::Relu6 => " relu6",
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}
