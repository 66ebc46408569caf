//! The conventions: one table each. Ours are torchvision's names for residual and plain convolutional networks and timm's for vision
//! transformers.
//!
//! To add one: its name, where its backbone's names begin, the rules if its names are others behind that, and what it holds beside the
//! backbone. The first prefix is the one that is written.

use super::keras::KERAS;

/// How weights are called in files of one kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Convention {
    /// Its name on the command line.
    pub name: &'static str,
    /// Who writes such files.
    pub of: &'static str,
    /// What stands before the backbone's names.
    pub prefixes: &'static [&'static str],
    /// (Ours, theirs) behind the prefix; a name that fits none is the same in both, if `same` is set.
    pub rules: &'static [(&'static str, &'static str)],
    /// Whether other names are ours.
    pub same: bool,
    /// What stands behind the prefix and is no part of the backbone: its own last layer. Dropped on purpose.
    pub heads: &'static [&'static str],
    /// What stands beside the backbone, outside of the prefix: other heads and encoders. Dropped on purpose.
    pub beside: &'static [&'static str],
    /// Weight and bias of the linear layer that may follow the features, behind the prefix or outside of it.
    pub classifiers: &'static [[&'static str; 2]],
    /// Whose layout and conventions the numbers follow.
    pub framework: Framework,
}

/// Who computes with a file's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framework {
    /// PyTorch: convolutions are OIHW, and everything else as it is here.
    PyTorch,
    /// Keras and its applications: what that means, [`load_file`](crate::load_file) says.
    Keras,
}

/// What training leaves in a checkpoint, whoever trains. Here and in the tables a name without a dot or an underscore at its end is a
/// whole part of a name: `queue` is not `queue_of_mine`.
pub const TRAINING: &[&str] = &[
    "optimizer",
    "optimizers",
    "optimizer_states.",
    "scaler",
    "lr_scheduler",
    "lr_schedulers.",
    "loops.",
    "callbacks.",
    "amp",
    // Averages of the weights beside them.
    "state_dict_ema.",
    "model_ema.",
    "ema",
    "ema_state_dict.",
    // Where it was, and how good.
    "epoch",
    "step",
    "global_step",
    "best_acc",
    "best_acc1",
    "best_prec1",
    "best_loss",
    "rng",
    "rng_state",
    "rng_states",
    "cuda_rng_state",
    "random_state",
];

/// A supervised head, as the backbone's own last layer.
const HEADS: &[&str] = &["fc.", "head.", "head_dist.", "classifier.", "pre_logits.", "fc_norm."];
/// A vision transformer's, and the decoder that a masked autoencoder (MAE) has behind it.
const VIT_HEADS: &[&str] =
    &["fc.", "head.", "head_dist.", "classifier.", "pre_logits.", "fc_norm.", "decoder_", "mask_token"];

/// Its classifiers.
const FC_OR_LAST: &[[&str; 2]] = &[["fc.weight", "fc.bias"], ["classifier.6.weight", "classifier.6.bias"]];
const FC_OR_HEAD: &[[&str; 2]] = &[["fc.weight", "fc.bias"], ["head.weight", "head.bias"]];

/// Residual and plain convolutional networks, as they are called here.
const TORCHVISION: &[(&str, &str)] = &[
    ("conv1.{*}", "conv1.{*}"),
    ("bn1.{*}", "bn1.{*}"),
    ("layer{s}.{b}.{*}", "layer{s}.{b}.{*}"),
    ("features.{n}.{*}", "features.{n}.{*}"),
    ("classifier.{n}.{*}", "classifier.{n}.{*}"),
];

/// AlexNet and VGG whose convolutions alone are in DataParallel, or are no more.
const DEEPCLUSTER: &[(&str, &str)] = &[
    ("features.{n}.{*}", "features.module.{n}.{*}"),
    ("features.{n}.{*}", "features.{n}.{*}"),
    ("classifier.{n}.{*}", "classifier.{n}.{*}"),
];

/// AlexNet in blocks: convolutions with their normalisations, poolings, both fully connected layers.
const ROTNET: &[(&str, &str)] = &[
    ("features.0.{*}", "0.0.{*}"),
    ("features.1.{*}", "0.1.{*}"),
    ("features.4.{*}", "2.0.{*}"),
    ("features.5.{*}", "2.1.{*}"),
    ("features.8.{*}", "4.0.{*}"),
    ("features.9.{*}", "4.1.{*}"),
    ("features.11.{*}", "5.0.{*}"),
    ("features.12.{*}", "5.1.{*}"),
    ("features.14.{*}", "6.0.{*}"),
    ("features.15.{*}", "6.1.{*}"),
    ("classifier.{n}.{*}", "8.{n}.{*}"),
];

/// Transformers' residual networks, behind `resnet.`.
const HF_RESNET: &[(&str, &str)] = &[
    ("conv1.{*}", "embedder.embedder.convolution.{*}"),
    ("bn1.{*}", "embedder.embedder.normalization.{*}"),
    ("layer{s}.{b}.conv{i}.{*}", "encoder.stages.{s-1}.layers.{b}.layer.{i-1}.convolution.{*}"),
    ("layer{s}.{b}.bn{i}.{*}", "encoder.stages.{s-1}.layers.{b}.layer.{i-1}.normalization.{*}"),
    ("layer{s}.{b}.downsample.0.{*}", "encoder.stages.{s-1}.layers.{b}.shortcut.convolution.{*}"),
    ("layer{s}.{b}.downsample.1.{*}", "encoder.stages.{s-1}.layers.{b}.shortcut.normalization.{*}"),
];

/// Transformers' vision transformers, behind `vit.`. Query, key and value stand apart; [`super::fused`] puts them together.
const HF_VIT: &[(&str, &str)] = &[
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.{*}", "embeddings.patch_embeddings.projection.{*}"),
    ("blocks.{b}.norm1.{*}", "encoder.layer.{b}.layernorm_before.{*}"),
    ("blocks.{b}.norm2.{*}", "encoder.layer.{b}.layernorm_after.{*}"),
    ("blocks.{b}.attn.q.{*}", "encoder.layer.{b}.attention.attention.query.{*}"),
    ("blocks.{b}.attn.k.{*}", "encoder.layer.{b}.attention.attention.key.{*}"),
    ("blocks.{b}.attn.v.{*}", "encoder.layer.{b}.attention.attention.value.{*}"),
    ("blocks.{b}.attn.proj.{*}", "encoder.layer.{b}.attention.output.dense.{*}"),
    ("blocks.{b}.mlp.fc1.{*}", "encoder.layer.{b}.intermediate.dense.{*}"),
    ("blocks.{b}.mlp.fc2.{*}", "encoder.layer.{b}.output.dense.{*}"),
    ("norm.{*}", "layernorm.{*}"),
];

/// The same in the memory of transformers 5, behind `vit.`; its files have the names above.
const HF_VIT_5: &[(&str, &str)] = &[
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.{*}", "embeddings.patch_embeddings.projection.{*}"),
    ("blocks.{b}.norm1.{*}", "layers.{b}.layernorm_before.{*}"),
    ("blocks.{b}.norm2.{*}", "layers.{b}.layernorm_after.{*}"),
    ("blocks.{b}.attn.q.{*}", "layers.{b}.attention.q_proj.{*}"),
    ("blocks.{b}.attn.k.{*}", "layers.{b}.attention.k_proj.{*}"),
    ("blocks.{b}.attn.v.{*}", "layers.{b}.attention.v_proj.{*}"),
    ("blocks.{b}.attn.proj.{*}", "layers.{b}.attention.o_proj.{*}"),
    ("blocks.{b}.mlp.{*}", "layers.{b}.mlp.{*}"),
    ("norm.{*}", "layernorm.{*}"),
];

/// A network's children in an `nn.Sequential`: stem, normalisation, ReLU, pooling, four stages.
const SEQUENTIAL: &[(&str, &str)] =
    &[("conv1.{*}", "0.{*}"), ("bn1.{*}", "1.{*}"), ("layer{s}.{*}", "{s+3}.{*}")];

/// Every convention. Of two that fit a file equally well the earlier one counts.
pub const CONVENTIONS: &[Convention] = &[
    Convention {
        name: "torchvision",
        of: "torchvision's residual networks, AlexNet and VGG; SimCLR's weights as converted from TensorFlow",
        prefixes: &[""],
        rules: TORCHVISION,
        same: false,
        heads: HEADS,
        beside: &[],
        classifiers: FC_OR_LAST,
        framework: Framework::PyTorch,
    },
    Convention {
        name: "timm",
        of: "timm: vision transformers, and residual networks as torchvision calls them; DINO's backbones alone; MAE",
        prefixes: &["", "state_dict_ema.", "model_ema."],
        rules: &[],
        same: true,
        heads: VIT_HEADS,
        beside: &[],
        classifiers: FC_OR_HEAD,
        framework: Framework::PyTorch,
    },
    Convention {
        name: "moco",
        of: "MoCo v1 and v2 (facebookresearch/moco)",
        prefixes: &["state_dict.module.encoder_q.", "encoder_q."],
        rules: &[],
        same: true,
        heads: &["fc.", "classifier.6."],
        beside: &["encoder_k.", "queue", "queue_ptr"],
        classifiers: &[],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "moco-v3",
        of: "MoCo v3 (facebookresearch/moco-v3)",
        prefixes: &["state_dict.module.base_encoder.", "base_encoder."],
        rules: &[],
        same: true,
        heads: &["fc.", "head.", "classifier.6."],
        beside: &["momentum_encoder.", "predictor."],
        classifiers: &[],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "dino",
        of: "DINO's training checkpoints (facebookresearch/dino): the teacher",
        prefixes: &["teacher.backbone.", "teacher.module.backbone."],
        rules: &[],
        same: true,
        heads: HEADS,
        beside: &["teacher.head.", "teacher.module.head.", "student.", "dino_loss."],
        classifiers: &[],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "vissl",
        of: "VISSL",
        prefixes: &[
            "classy_state_dict.base_model.model.trunk._feature_blocks.",
            "classy_state_dict.base_model.model.trunk.base_model._feature_blocks.",
            "trunk._feature_blocks.",
            "_feature_blocks.",
        ],
        rules: &[],
        same: true,
        heads: &[],
        beside: &["classy_state_dict.", "heads."],
        classifiers: &[],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "swav",
        of: "SwAV, DeepCluster v2 and others that train in DataParallel",
        prefixes: &["module."],
        rules: &[],
        same: true,
        heads: &["projection_head.", "prototypes", "fc.", "head.", "classifier.6."],
        beside: &[],
        classifiers: FC_OR_HEAD,
        framework: Framework::PyTorch,
    },
    Convention {
        name: "solo-learn",
        of: "solo-learn; SimSiam, Barlow Twins, VICReg and others that call it backbone or encoder",
        prefixes: &["state_dict.backbone.", "backbone.", "encoder."],
        rules: &[],
        same: true,
        heads: &["fc.", "classifier.6."],
        beside: &[
            "projector.",
            "predictor.",
            "classifier.",
            "momentum_",
            "prototypes",
            "queue",
            "queue_ptr",
            "queue_y",
            "online_classifier.",
            // Barlow Twins' normalisation of what is projected.
            "bn.",
        ],
        classifiers: &[],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "byol",
        of: "lucidrains/byol-pytorch and others with an online encoder",
        prefixes: &["online_encoder.net.", "online_encoder.", "online_network."],
        rules: &[],
        same: true,
        heads: &["projector.", "fc.", "classifier.6."],
        beside: &["online_encoder.projector.", "online_predictor.", "target_encoder.", "target_network."],
        classifiers: &[],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "lightly",
        of: "lightly: a torchvision network's children in an nn.Sequential",
        prefixes: &["state_dict.backbone.", "backbone.", ""],
        rules: SEQUENTIAL,
        same: false,
        heads: &[],
        beside: &[
            "projection_head.",
            "prediction_head.",
            "backbone_momentum.",
            "projection_head_momentum.",
            "student_",
            "teacher_",
            "online_classifier.",
            "criterion.",
        ],
        classifiers: &[],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "deepcluster",
        of: "DeepCluster (facebookresearch/deepcluster); AlexNet and VGG of PyTorch's ImageNet example",
        prefixes: &["state_dict.", ""],
        rules: DEEPCLUSTER,
        same: false,
        // The Sobel filters are always the same.
        heads: &["top_layer.", "classifier.6.", "sobel."],
        beside: &[],
        classifiers: &[["top_layer.weight", "top_layer.bias"], ["classifier.6.weight", "classifier.6.bias"]],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "rotnet",
        of: "RotNet's AlexNet (gidariss/FeatureLearningRotNet)",
        prefixes: &["network._feature_blocks.", "_feature_blocks."],
        rules: ROTNET,
        same: false,
        heads: &["9."],
        beside: &[],
        classifiers: &[["9.weight", "9.bias"]],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "hf-resnet",
        of: "transformers' ResNetModel and ResNetForImageClassification",
        prefixes: &["", "resnet."],
        rules: HF_RESNET,
        same: false,
        heads: &[],
        beside: &["classifier."],
        classifiers: &[["classifier.1.weight", "classifier.1.bias"]],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "hf-vit",
        of: "transformers' ViTModel and ViTForImageClassification",
        prefixes: &["", "vit."],
        rules: HF_VIT,
        same: false,
        heads: &["pooler."],
        beside: &["classifier."],
        classifiers: &[["classifier.weight", "classifier.bias"]],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "hf-vit-5",
        of: "the same models' state_dict() in transformers 5",
        prefixes: &["", "vit."],
        rules: HF_VIT_5,
        same: false,
        heads: &["pooler."],
        beside: &["classifier."],
        classifiers: &[["classifier.weight", "classifier.bias"]],
        framework: Framework::PyTorch,
    },
    Convention {
        name: "keras",
        of: "Keras's applications: ResNet-50, -101 and -152 (not the V2 ones), as TensorFlow.js ships them",
        prefixes: &["", "resnet50/", "resnet101/", "resnet152/"],
        rules: KERAS,
        same: false,
        heads: &["fc1000/", "predictions/", "probs/"],
        beside: &[],
        classifiers: &[
            ["fc1000/kernel", "fc1000/bias"],
            ["predictions/kernel", "predictions/bias"],
            ["probs/kernel", "probs/bias"],
        ],
        framework: Framework::Keras,
    },
];
