// Makes Azure Monitor's Prometheus rule groups of ../rules.yaml, which stays the one place where rules are written.
// Azure evaluates a group every minute at most, so shorter intervals of the file do not count here.
//
//   az deployment group create --resource-group RG --template-file rules.bicep \
//     --parameters workspaceId=/subscriptions/.../accounts/WORKSPACE clusterName=CLUSTER actionGroupId=/subscriptions/...

@description('Resource id of the Azure Monitor workspace that the cluster sends metrics to.')
param workspaceId string

@description('Name of the AKS cluster; rules look at its series only.')
param clusterName string

@description('Resource id of the action group that is told of alerts; empty tells nobody.')
param actionGroupId string = ''

param location string = resourceGroup().location

var file = loadYamlContent('../rules.yaml')

// Azure counts from 0, critical, to 4, verbose.
var severities = { critical: 1, warning: 2, info: 3 }

resource groups 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = [for group in file.spec.groups: {
  name: '${clusterName}-${group.name}'
  location: location
  properties: {
    clusterName: clusterName
    scopes: [workspaceId]
    enabled: true
    interval: 'PT1M'
    rules: map(group.rules, rule => contains(rule, 'record') ? {
      record: rule.record
      expression: rule.expr
    } : {
      alert: rule.alert
      expression: rule.expr
      // 10m becomes PT10M.
      for: 'PT${toUpper(rule.for)}'
      severity: severities[rule.labels.severity]
      labels: rule.labels
      annotations: rule.annotations
      resolveConfiguration: { autoResolved: true, timeToResolve: 'PT10M' }
      actions: empty(actionGroupId) ? [] : [{ actionGroupId: actionGroupId }]
    })
  }
}]
