//! The Kubernetes API of plimsoll: Karpenter v1 on the wire
