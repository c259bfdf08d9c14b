//! The networks as data: which convolutions each has, how they are wired, what a checkpoint calls them, and what
//! photos have to become for it.
//!
//! The loader, the random generator, detection and every engine walk the same [`Blueprint`]. No numbers of a trained
//! model and no arithmetic live here; each family has its file.

mod blueprint;
mod efficientnet;
mod resnet;

use std::fmt;
use std::str::FromStr;

pub use blueprint::{Activation, BlockSpec, Blueprint, ConvSpec, Padding, Shortcut, TensorSpec, Window};
use resnet::{Kind, Recipe};

use super::Preprocessing;

/// A network this crate can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Arch {
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
    EfficientNetLite0,
}

/// The families, and what distinguishes the members of each.
enum Family {
    ResNet(Recipe),
    Lite0,
}

/// The name is not one of [`Arch::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown architecture {0:?}: expected one of {names}", names = Arch::names())]
pub struct UnknownArch(pub String);

impl Arch {
    /// Every architecture, by family, small to large.
    pub const ALL: [Arch; 6] = [
        Arch::ResNet18,
        Arch::ResNet34,
        Arch::ResNet50,
        Arch::ResNet101,
        Arch::ResNet152,
        Arch::EfficientNetLite0,
    ];

    fn family(self) -> Family {
        let resnet = |kind, depths| Family::ResNet(Recipe { kind, depths });
        match self {
            Arch::ResNet18 => resnet(Kind::Basic, [2, 2, 2, 2]),
            Arch::ResNet34 => resnet(Kind::Basic, [3, 4, 6, 3]),
            Arch::ResNet50 => resnet(Kind::Bottleneck, [3, 4, 6, 3]),
            Arch::ResNet101 => resnet(Kind::Bottleneck, [3, 4, 23, 3]),
            Arch::ResNet152 => resnet(Kind::Bottleneck, [3, 8, 36, 3]),
            Arch::EfficientNetLite0 => Family::Lite0,
        }
    }

    /// The publisher's name, `resnet152`.
    pub fn name(self) -> &'static str {
        match self {
            Arch::ResNet18 => "resnet18",
            Arch::ResNet34 => "resnet34",
            Arch::ResNet50 => "resnet50",
            Arch::ResNet101 => "resnet101",
            Arch::ResNet152 => "resnet152",
            Arch::EfficientNetLite0 => "efficientnet-lite0",
        }
    }

    /// All names, for messages.
    pub fn names() -> String {
        Arch::ALL.map(Arch::name).join(", ")
    }

    /// What photos have to become for weights published with this architecture.
    pub fn preprocessing(self) -> Preprocessing {
        match self.family() {
            Family::ResNet(_) => Preprocessing::TORCHVISION,
            Family::Lite0 => Preprocessing::LITE,
        }
    }

    /// Key prefix of the fully connected layer.
    pub fn fc(self) -> &'static str {
        match self.family() {
            Family::ResNet(_) => "fc",
            Family::Lite0 => "_fc",
        }
    }

    /// Length of the pooled feature vector that the fully connected layer reads.
    pub fn features(self) -> usize {
        self.blueprint(1).fc_weight.elements()
    }

    /// The network with `classes` outputs.
    pub fn blueprint(self, classes: usize) -> Blueprint {
        match self.family() {
            Family::ResNet(recipe) => recipe.blueprint(classes),
            Family::Lite0 => efficientnet::lite0(classes),
        }
    }

    /// Every tensor a checkpoint holds, in `state_dict` order.
    pub fn layout(self, classes: usize) -> Vec<TensorSpec> {
        self.blueprint(classes).layout()
    }

    /// Trainable numbers: everything but running statistics and counters.
    pub fn parameters(self, classes: usize) -> usize {
        let trained = |t: &&TensorSpec| !t.name.contains(".running_") && !t.is_counter();
        self.layout(classes).iter().filter(trained).map(TensorSpec::elements).sum()
    }

    /// The architecture whose blocks are exactly those present, judged by which keys exist.
    pub fn detect(has: impl Fn(&str) -> bool) -> Option<Arch> {
        Arch::ALL.into_iter().find(|arch| match arch.family() {
            Family::ResNet(recipe) => recipe.fits(&has),
            Family::Lite0 => efficientnet::is_lite0(&has),
        })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(text: &str) -> Result<Self, UnknownArch> {
        let found = Arch::ALL.into_iter().find(|arch| arch.name().eq_ignore_ascii_case(text.trim()));
        found.ok_or_else(|| UnknownArch(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter totals of torchvision's models, and of the package's Lite0 as torch counts them; tensor counts include
    /// `num_batches_tracked`.
    const PUBLISHED: [(Arch, usize, usize); 6] = [
        (Arch::ResNet18, 122, 11_689_512),
        (Arch::ResNet34, 218, 21_797_672),
        (Arch::ResNet50, 320, 25_557_032),
        (Arch::ResNet101, 626, 44_549_160),
        (Arch::ResNet152, 932, 60_192_808),
        (Arch::EfficientNetLite0, 296, 4_652_008),
    ];

    #[test]
    fn layouts_have_the_published_sizes() {
        for (arch, tensors, parameters) in PUBLISHED {
            assert_eq!(arch.layout(1000).len(), tensors, "{arch}");
            assert_eq!(arch.parameters(1000), parameters, "{arch}");
            assert_eq!(arch.blueprint(7).fc_weight.shape, [7, arch.features()], "{arch}");
            assert!(arch.blueprint(7).fc_bias.name.starts_with(&format!("{}.", arch.fc())), "{arch}");
        }
    }

    #[test]
    fn every_block_fits_what_comes_before_it() {
        for arch in Arch::ALL {
            let net = arch.blueprint(10);
            let mut channels = net.stem.outputs;
            for block in net.blocks {
                let ends = (block.branch[0].inputs, block.branch[block.branch.len() - 1].outputs);
                assert_eq!(ends.0, channels, "{arch} {}", block.name);
                assert!(block.branch.windows(2).all(|pair| pair[0].outputs == pair[1].inputs));
                assert!(block.branch.iter().all(|conv| !conv.depthwise || conv.inputs == conv.outputs));
                match block.shortcut {
                    Shortcut::None => {}
                    Shortcut::Identity => assert_eq!(ends.0, ends.1, "{arch} {}", block.name),
                    Shortcut::Projection(conv) => assert_eq!((conv.inputs, conv.outputs), ends),
                }
                channels = ends.1;
            }
            assert_eq!(channels, arch.features(), "{arch}");
        }
    }

    #[test]
    fn every_architecture_is_detected_from_its_own_names() {
        for arch in Arch::ALL {
            let names: Vec<String> = arch.layout(3).into_iter().map(|t| t.name).collect();
            assert_eq!(Arch::detect(|name| names.iter().any(|n| n == name)), Some(arch));
        }
        assert_eq!(Arch::detect(|_| false), None);
        assert_eq!(Arch::detect(|_| true), None);
    }

    #[test]
    fn names_round_trip() {
        for arch in Arch::ALL {
            assert_eq!(arch.to_string().parse(), Ok(arch));
        }
        assert_eq!(" ResNet152 ".parse(), Ok(Arch::ResNet152));
        let error = "resnet151".parse::<Arch>().map_err(|unknown| unknown.to_string());
        assert!(error.is_err_and(|text| text.contains("resnet151") && text.contains("efficientnet-lite0")));
    }
}
