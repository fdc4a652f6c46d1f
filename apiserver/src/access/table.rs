//! Every RPC, and who beside administrators may call it.

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Administrators alone.
    Admin,
    /// Nodes too, for what belongs to them.
    Node,
    /// Anyone who can connect.
    Everyone,
}

/// What is not here is for administrators, who are told that there is no such call.
pub(super) const RPCS: &[(&str, Access)] = &[
    ("/clone8s.v1.PodService/CreatePod", Access::Node),
    ("/clone8s.v1.PodService/GetPod", Access::Node),
    ("/clone8s.v1.PodService/ListPods", Access::Node),
    ("/clone8s.v1.PodService/UpdatePod", Access::Admin),
    ("/clone8s.v1.PodService/DeletePod", Access::Node),
    ("/clone8s.v1.PodService/DeletePods", Access::Admin),
    ("/clone8s.v1.PodService/ApplyPod", Access::Admin),
    ("/clone8s.v1.PodService/BatchWritePods", Access::Admin),
    ("/clone8s.v1.PodService/WatchPods", Access::Node),
    ("/clone8s.v1.PodService/UpdatePodStatus", Access::Node),
    ("/clone8s.v1.PodService/BindPod", Access::Admin),
    ("/clone8s.v1.PodService/EvictPod", Access::Admin),
    ("/clone8s.v1.PodService/AddEphemeralContainer", Access::Admin),
    ("/clone8s.v1.PodService/GetPodLogs", Access::Admin),
    ("/clone8s.v1.PodService/ExecPod", Access::Admin),
    ("/clone8s.v1.PodService/AttachPod", Access::Admin),
    ("/clone8s.v1.PodService/PortForwardPod", Access::Admin),
    ("/clone8s.v1.NodeService/CreateNode", Access::Node),
    ("/clone8s.v1.NodeService/GetNode", Access::Node),
    ("/clone8s.v1.NodeService/ListNodes", Access::Node),
    ("/clone8s.v1.NodeService/UpdateNode", Access::Node),
    ("/clone8s.v1.NodeService/DeleteNode", Access::Admin),
    ("/clone8s.v1.NodeService/DeleteNodes", Access::Admin),
    ("/clone8s.v1.NodeService/ApplyNode", Access::Admin),
    ("/clone8s.v1.NodeService/BatchWriteNodes", Access::Admin),
    ("/clone8s.v1.NodeService/WatchNodes", Access::Node),
    ("/clone8s.v1.NodeService/UpdateNodeStatus", Access::Node),
    ("/clone8s.v1.NamespaceService/CreateNamespace", Access::Admin),
    ("/clone8s.v1.NamespaceService/GetNamespace", Access::Admin),
    ("/clone8s.v1.NamespaceService/ListNamespaces", Access::Admin),
    ("/clone8s.v1.NamespaceService/UpdateNamespace", Access::Admin),
    ("/clone8s.v1.NamespaceService/DeleteNamespace", Access::Admin),
    ("/clone8s.v1.NamespaceService/DeleteNamespaces", Access::Admin),
    ("/clone8s.v1.NamespaceService/ApplyNamespace", Access::Admin),
    ("/clone8s.v1.NamespaceService/BatchWriteNamespaces", Access::Admin),
    ("/clone8s.v1.NamespaceService/WatchNamespaces", Access::Admin),
    ("/clone8s.v1.ConfigMapService/CreateConfigMap", Access::Admin),
    ("/clone8s.v1.ConfigMapService/GetConfigMap", Access::Node),
    ("/clone8s.v1.ConfigMapService/ListConfigMaps", Access::Admin),
    ("/clone8s.v1.ConfigMapService/UpdateConfigMap", Access::Admin),
    ("/clone8s.v1.ConfigMapService/DeleteConfigMap", Access::Admin),
    ("/clone8s.v1.ConfigMapService/DeleteConfigMaps", Access::Admin),
    ("/clone8s.v1.ConfigMapService/ApplyConfigMap", Access::Admin),
    ("/clone8s.v1.ConfigMapService/BatchWriteConfigMaps", Access::Admin),
    ("/clone8s.v1.ConfigMapService/WatchConfigMaps", Access::Node),
    ("/clone8s.v1.SecretService/CreateSecret", Access::Admin),
    ("/clone8s.v1.SecretService/GetSecret", Access::Node),
    ("/clone8s.v1.SecretService/ListSecrets", Access::Admin),
    ("/clone8s.v1.SecretService/UpdateSecret", Access::Admin),
    ("/clone8s.v1.SecretService/DeleteSecret", Access::Admin),
    ("/clone8s.v1.SecretService/DeleteSecrets", Access::Admin),
    ("/clone8s.v1.SecretService/ApplySecret", Access::Admin),
    ("/clone8s.v1.SecretService/BatchWriteSecrets", Access::Admin),
    ("/clone8s.v1.SecretService/WatchSecrets", Access::Node),
    ("/clone8s.v1.EventService/CreateEvent", Access::Node),
    ("/clone8s.v1.EventService/GetEvent", Access::Node),
    ("/clone8s.v1.EventService/ListEvents", Access::Admin),
    ("/clone8s.v1.EventService/UpdateEvent", Access::Node),
    ("/clone8s.v1.EventService/DeleteEvent", Access::Admin),
    ("/clone8s.v1.EventService/DeleteEvents", Access::Admin),
    ("/clone8s.v1.EventService/ApplyEvent", Access::Admin),
    ("/clone8s.v1.EventService/BatchWriteEvents", Access::Admin),
    ("/clone8s.v1.EventService/WatchEvents", Access::Admin),
    ("/clone8s.v1.LeaseService/CreateLease", Access::Node),
    ("/clone8s.v1.LeaseService/GetLease", Access::Node),
    ("/clone8s.v1.LeaseService/ListLeases", Access::Admin),
    ("/clone8s.v1.LeaseService/UpdateLease", Access::Node),
    ("/clone8s.v1.LeaseService/DeleteLease", Access::Admin),
    ("/clone8s.v1.LeaseService/DeleteLeases", Access::Admin),
    ("/clone8s.v1.LeaseService/ApplyLease", Access::Admin),
    ("/clone8s.v1.LeaseService/BatchWriteLeases", Access::Admin),
    ("/clone8s.v1.LeaseService/WatchLeases", Access::Admin),
    (
        "/clone8s.v1.ServiceAccountService/CreateServiceAccount",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ServiceAccountService/GetServiceAccount",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ServiceAccountService/ListServiceAccounts",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ServiceAccountService/UpdateServiceAccount",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ServiceAccountService/DeleteServiceAccount",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ServiceAccountService/DeleteServiceAccounts",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ServiceAccountService/ApplyServiceAccount",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ServiceAccountService/BatchWriteServiceAccounts",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ServiceAccountService/WatchServiceAccounts",
        Access::Admin,
    ),
    (
        "/clone8s.v1.PriorityClassService/CreatePriorityClass",
        Access::Admin,
    ),
    ("/clone8s.v1.PriorityClassService/GetPriorityClass", Access::Admin),
    (
        "/clone8s.v1.PriorityClassService/ListPriorityClasses",
        Access::Admin,
    ),
    (
        "/clone8s.v1.PriorityClassService/UpdatePriorityClass",
        Access::Admin,
    ),
    (
        "/clone8s.v1.PriorityClassService/DeletePriorityClass",
        Access::Admin,
    ),
    (
        "/clone8s.v1.PriorityClassService/DeletePriorityClasses",
        Access::Admin,
    ),
    (
        "/clone8s.v1.PriorityClassService/ApplyPriorityClass",
        Access::Admin,
    ),
    (
        "/clone8s.v1.PriorityClassService/BatchWritePriorityClasses",
        Access::Admin,
    ),
    (
        "/clone8s.v1.PriorityClassService/WatchPriorityClasses",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ResourceQuotaService/CreateResourceQuota",
        Access::Admin,
    ),
    ("/clone8s.v1.ResourceQuotaService/GetResourceQuota", Access::Admin),
    (
        "/clone8s.v1.ResourceQuotaService/ListResourceQuotas",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ResourceQuotaService/UpdateResourceQuota",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ResourceQuotaService/DeleteResourceQuota",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ResourceQuotaService/DeleteResourceQuotas",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ResourceQuotaService/ApplyResourceQuota",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ResourceQuotaService/BatchWriteResourceQuotas",
        Access::Admin,
    ),
    (
        "/clone8s.v1.ResourceQuotaService/WatchResourceQuotas",
        Access::Admin,
    ),
    ("/clone8s.v1.LimitRangeService/CreateLimitRange", Access::Admin),
    ("/clone8s.v1.LimitRangeService/GetLimitRange", Access::Admin),
    ("/clone8s.v1.LimitRangeService/ListLimitRanges", Access::Admin),
    ("/clone8s.v1.LimitRangeService/UpdateLimitRange", Access::Admin),
    ("/clone8s.v1.LimitRangeService/DeleteLimitRange", Access::Admin),
    ("/clone8s.v1.LimitRangeService/DeleteLimitRanges", Access::Admin),
    ("/clone8s.v1.LimitRangeService/ApplyLimitRange", Access::Admin),
    (
        "/clone8s.v1.LimitRangeService/BatchWriteLimitRanges",
        Access::Admin,
    ),
    ("/clone8s.v1.LimitRangeService/WatchLimitRanges", Access::Admin),
    ("/clone8s.v1.MaintenanceService/BackUpStore", Access::Admin),
    ("/clone8s.v1.RegistrationService/CreateJoinToken", Access::Admin),
    // The join token is what it asks for.
    ("/clone8s.v1.RegistrationService/RegisterNode", Access::Everyone),
    (
        "/clone8s.v1.RegistrationService/RenewNodeCertificate",
        Access::Node,
    ),
    ("/clone8s.v1.TunnelService/WatchNodeCalls", Access::Node),
    ("/clone8s.v1.TunnelService/AnswerNodeCall", Access::Node),
    ("/grpc.health.v1.Health/Check", Access::Everyone),
    ("/grpc.health.v1.Health/List", Access::Everyone),
    ("/grpc.health.v1.Health/Watch", Access::Everyone),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Access::Everyone,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Access::Everyone,
    ),
];

pub(super) fn access(path: &str) -> Access {
    RPCS.iter()
        .find(|(rpc, _)| *rpc == path)
        .map_or(Access::Admin, |(_, access)| *access)
}
