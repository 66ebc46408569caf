//! Keras's names of residual networks, behind which stands what of a layer a tensor is: `kernel`, or a normalisation's `gamma`, `beta`,
//! `moving_mean` and `moving_variance`.
//!
//! Two generations: `conv3_block1_2_conv` (keras-applications from 1.0.7, with `_0_` for the shortcut) and Caffe's `res3a_branch2b` before.
//! A convolution's bias is no tensor of ours; [`crate::keras`] folds it.

/// (Ours, theirs). The first of those for a name of ours is the one that is written.
pub const KERAS: &[(&str, &str)] = &[
    // Today's.
    ("conv1.weight", "conv1_conv/kernel"),
    ("conv1.bias", "conv1_conv/bias"),
    ("bn1.weight", "conv1_bn/gamma"),
    ("bn1.bias", "conv1_bn/beta"),
    ("bn1.running_mean", "conv1_bn/moving_mean"),
    ("bn1.running_var", "conv1_bn/moving_variance"),
    ("layer{s}.{b}.downsample.0.weight", "conv{s+1}_block{b+1}_0_conv/kernel"),
    ("layer{s}.{b}.downsample.0.bias", "conv{s+1}_block{b+1}_0_conv/bias"),
    ("layer{s}.{b}.downsample.1.weight", "conv{s+1}_block{b+1}_0_bn/gamma"),
    ("layer{s}.{b}.downsample.1.bias", "conv{s+1}_block{b+1}_0_bn/beta"),
    ("layer{s}.{b}.downsample.1.running_mean", "conv{s+1}_block{b+1}_0_bn/moving_mean"),
    ("layer{s}.{b}.downsample.1.running_var", "conv{s+1}_block{b+1}_0_bn/moving_variance"),
    ("layer{s}.{b}.conv{i}.weight", "conv{s+1}_block{b+1}_{i}_conv/kernel"),
    ("layer{s}.{b}.conv{i}.bias", "conv{s+1}_block{b+1}_{i}_conv/bias"),
    ("layer{s}.{b}.bn{i}.weight", "conv{s+1}_block{b+1}_{i}_bn/gamma"),
    ("layer{s}.{b}.bn{i}.bias", "conv{s+1}_block{b+1}_{i}_bn/beta"),
    ("layer{s}.{b}.bn{i}.running_mean", "conv{s+1}_block{b+1}_{i}_bn/moving_mean"),
    ("layer{s}.{b}.bn{i}.running_var", "conv{s+1}_block{b+1}_{i}_bn/moving_variance"),
    // Caffe's.
    ("conv1.weight", "conv1/kernel"),
    ("conv1.bias", "conv1/bias"),
    ("bn1.weight", "bn_conv1/gamma"),
    ("bn1.bias", "bn_conv1/beta"),
    ("bn1.running_mean", "bn_conv1/moving_mean"),
    ("bn1.running_var", "bn_conv1/moving_variance"),
    ("layer{s}.{b}.downsample.0.weight", "res{s+1}{b@}_branch1/kernel"),
    ("layer{s}.{b}.downsample.0.bias", "res{s+1}{b@}_branch1/bias"),
    ("layer{s}.{b}.downsample.1.weight", "bn{s+1}{b@}_branch1/gamma"),
    ("layer{s}.{b}.downsample.1.bias", "bn{s+1}{b@}_branch1/beta"),
    ("layer{s}.{b}.downsample.1.running_mean", "bn{s+1}{b@}_branch1/moving_mean"),
    ("layer{s}.{b}.downsample.1.running_var", "bn{s+1}{b@}_branch1/moving_variance"),
    ("layer{s}.{b}.conv{i}.weight", "res{s+1}{b@}_branch2{i-1@}/kernel"),
    ("layer{s}.{b}.conv{i}.bias", "res{s+1}{b@}_branch2{i-1@}/bias"),
    ("layer{s}.{b}.bn{i}.weight", "bn{s+1}{b@}_branch2{i-1@}/gamma"),
    ("layer{s}.{b}.bn{i}.bias", "bn{s+1}{b@}_branch2{i-1@}/beta"),
    ("layer{s}.{b}.bn{i}.running_mean", "bn{s+1}{b@}_branch2{i-1@}/moving_mean"),
    ("layer{s}.{b}.bn{i}.running_var", "bn{s+1}{b@}_branch2{i-1@}/moving_variance"),
];
