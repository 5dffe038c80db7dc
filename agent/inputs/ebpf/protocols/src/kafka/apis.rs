//! What the requests of Kafka are called, since which version their fields are flexible, and where their answers say that they failed.
//!
//! By the message definitions of Kafka 4.1 (`clients/src/main/resources/common/message`); the place in the list is the key.

/// A request of the protocol.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) name: &'static str,
    /// From this version on strings and arrays are compact, and tagged fields follow.
    pub(super) flexible_since: i16,
    pub(super) answer: Answer,
}

/// Where an answer has its first error code; a number is the version since which the time of a throttle stands first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Right there.
    First(i16),
    /// In each partition of each topic, which is told by its identifier since that version.
    Partitions(i16, i16),
    /// In each topic, behind its identifier since that version.
    Topics(i16, i16),
    Coordinator,
    Produce,
    Fetch,
    Metadata,
    /// Deeper, or nowhere: failures are not seen.
    Unknown,
}

pub(super) const PRODUCE: i16 = 0;
pub(super) const FETCH: i16 = 1;
pub(super) const API_VERSIONS: i16 = 18;

/// Kept alive by its clients and brokers: no work of anybody's.
pub(super) fn is_heartbeat(key: i16) -> bool {
    matches!(key, 12 | 63 | 68 | 76 | 88)
}

pub(super) fn api(key: i16) -> Option<&'static Api> {
    APIS.get(usize::try_from(key).ok()?)
}

const APIS: [Api; 93] = [
    Api { name: "Produce", flexible_since: 9, answer: Answer::Produce },
    Api { name: "Fetch", flexible_since: 12, answer: Answer::Fetch },
    Api { name: "ListOffsets", flexible_since: 6, answer: Answer::Partitions(2, i16::MAX) },
    Api { name: "Metadata", flexible_since: 9, answer: Answer::Metadata },
    Api { name: "LeaderAndIsr", flexible_since: 4, answer: Answer::Unknown },
    Api { name: "StopReplica", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "UpdateMetadata", flexible_since: 6, answer: Answer::Unknown },
    Api { name: "ControlledShutdown", flexible_since: 3, answer: Answer::Unknown },
    Api { name: "OffsetCommit", flexible_since: 8, answer: Answer::Partitions(3, 10) },
    Api { name: "OffsetFetch", flexible_since: 6, answer: Answer::Unknown },
    Api { name: "FindCoordinator", flexible_since: 3, answer: Answer::Coordinator },
    Api { name: "JoinGroup", flexible_since: 6, answer: Answer::First(2) },
    Api { name: "Heartbeat", flexible_since: 4, answer: Answer::First(1) },
    Api { name: "LeaveGroup", flexible_since: 4, answer: Answer::First(1) },
    Api { name: "SyncGroup", flexible_since: 4, answer: Answer::First(1) },
    Api { name: "DescribeGroups", flexible_since: 5, answer: Answer::Unknown },
    Api { name: "ListGroups", flexible_since: 3, answer: Answer::First(1) },
    Api { name: "SaslHandshake", flexible_since: i16::MAX, answer: Answer::First(i16::MAX) },
    Api { name: "ApiVersions", flexible_since: 3, answer: Answer::First(i16::MAX) },
    Api { name: "CreateTopics", flexible_since: 5, answer: Answer::Topics(2, 7) },
    Api { name: "DeleteTopics", flexible_since: 4, answer: Answer::Topics(1, 6) },
    Api { name: "DeleteRecords", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "InitProducerId", flexible_since: 2, answer: Answer::First(0) },
    Api { name: "OffsetForLeaderEpoch", flexible_since: 4, answer: Answer::Unknown },
    Api { name: "AddPartitionsToTxn", flexible_since: 3, answer: Answer::Partitions(0, i16::MAX) },
    Api { name: "AddOffsetsToTxn", flexible_since: 3, answer: Answer::First(0) },
    Api { name: "EndTxn", flexible_since: 3, answer: Answer::First(0) },
    Api { name: "WriteTxnMarkers", flexible_since: 1, answer: Answer::Unknown },
    Api { name: "TxnOffsetCommit", flexible_since: 3, answer: Answer::Partitions(0, i16::MAX) },
    Api { name: "DescribeAcls", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "CreateAcls", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "DeleteAcls", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "DescribeConfigs", flexible_since: 4, answer: Answer::Unknown },
    Api { name: "AlterConfigs", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "AlterReplicaLogDirs", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "DescribeLogDirs", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "SaslAuthenticate", flexible_since: 2, answer: Answer::First(i16::MAX) },
    Api { name: "CreatePartitions", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "CreateDelegationToken", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "RenewDelegationToken", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "ExpireDelegationToken", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "DescribeDelegationToken", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "DeleteGroups", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "ElectLeaders", flexible_since: 2, answer: Answer::Unknown },
    Api { name: "IncrementalAlterConfigs", flexible_since: 1, answer: Answer::Unknown },
    Api { name: "AlterPartitionReassignments", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "ListPartitionReassignments", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "OffsetDelete", flexible_since: i16::MAX, answer: Answer::Unknown },
    Api { name: "DescribeClientQuotas", flexible_since: 1, answer: Answer::Unknown },
    Api { name: "AlterClientQuotas", flexible_since: 1, answer: Answer::Unknown },
    Api { name: "DescribeUserScramCredentials", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "AlterUserScramCredentials", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "Vote", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "BeginQuorumEpoch", flexible_since: 1, answer: Answer::Unknown },
    Api { name: "EndQuorumEpoch", flexible_since: 1, answer: Answer::Unknown },
    Api { name: "DescribeQuorum", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "AlterPartition", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "UpdateFeatures", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "Envelope", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "FetchSnapshot", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "DescribeCluster", flexible_since: 0, answer: Answer::First(0) },
    Api { name: "DescribeProducers", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "BrokerRegistration", flexible_since: 0, answer: Answer::First(0) },
    Api { name: "BrokerHeartbeat", flexible_since: 0, answer: Answer::First(0) },
    Api { name: "UnregisterBroker", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "DescribeTransactions", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "ListTransactions", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "AllocateProducerIds", flexible_since: 0, answer: Answer::First(0) },
    Api { name: "ConsumerGroupHeartbeat", flexible_since: 0, answer: Answer::First(0) },
    Api { name: "ConsumerGroupDescribe", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "ControllerRegistration", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "GetTelemetrySubscriptions", flexible_since: 0, answer: Answer::First(0) },
    Api { name: "PushTelemetry", flexible_since: 0, answer: Answer::First(0) },
    Api { name: "AssignReplicasToDirs", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "ListConfigResources", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "DescribeTopicPartitions", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "ShareGroupHeartbeat", flexible_since: 0, answer: Answer::First(0) },
    Api { name: "ShareGroupDescribe", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "ShareFetch", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "ShareAcknowledge", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "AddRaftVoter", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "RemoveRaftVoter", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "UpdateRaftVoter", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "InitializeShareGroupState", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "ReadShareGroupState", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "WriteShareGroupState", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "DeleteShareGroupState", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "ReadShareGroupStateSummary", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "StreamsGroupHeartbeat", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "StreamsGroupDescribe", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "DescribeShareGroupOffsets", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "AlterShareGroupOffsets", flexible_since: 0, answer: Answer::Unknown },
    Api { name: "DeleteShareGroupOffsets", flexible_since: 0, answer: Answer::Unknown },
];
