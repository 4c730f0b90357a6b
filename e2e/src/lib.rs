//! The testbed and the harness of the end-to-end tests and the demo.
//!
//! The control plane is real (etcd, kube-apiserver, kube-controller-manager, kube-scheduler); only the kubelets are
//! simulated, by kwok with stages of our own in which a draining pod takes as long as a real one would.
//!
//! - [`tools`] builds the programs of the testbed, once per machine.
//! - [`testbed`] runs them.
//! - [`cluster`] talks to the API server the way a test wants to.
//! - [`controller`] runs the `plimsoll` binary; [`upstream`] runs one of Karpenter's own instead.
//! - [`fixture`] is what a test begins and ends with; [`objects`] is what it applies.
//! - [`aws`] is the same fixture beside the AWS stand-in.
//! - [`cloud`] runs the AWS stand-in, [`localstack`] LocalStack; [`python`] installs what they need.
//! - [`compare`] measures the provider for AWS and Karpenter's on the same stand-in.
//! - [`demo`] puts a workload on an empty cluster, measures, and takes it away again.

pub mod aws;
pub mod cloud;
pub mod cluster;
pub mod compare;
pub mod conditions;
pub mod controller;
pub mod demo;
pub mod fixture;
pub mod latencies;
pub mod localstack;
pub mod machine_load;
pub mod metrics;
pub mod objects;
pub mod paths;
pub mod ports;
pub mod process;
pub mod python;
pub mod rights;
pub mod testbed;
pub mod tools;
pub mod upstream;
