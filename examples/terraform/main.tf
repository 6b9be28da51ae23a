# The packaged governor (`make package`, copied to a bucket) from Terraform, and the outputs for functions of one's own.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "bucket" {
  description = "The bucket, in this region, that holds build/package/ below connection-governor/."
  type        = string
}

variable "database_secret_arn" {
  description = "The secret with the administrator's username and password."
  type        = string
}

variable "database_endpoint" {
  type = string
}

variable "vpc_id" {
  type = string
}

variable "subnet_ids" {
  type = list(string)
}

variable "database_security_group_id" {
  type = string
}

resource "aws_cloudformation_stack" "governor" {
  name         = "orders-governor"
  template_url = "https://${var.bucket}.s3.amazonaws.com/connection-governor/template.yaml"
  capabilities = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]

  parameters = {
    ArtifactsBucket         = var.bucket
    ArtifactsPrefix         = "connection-governor/"
    DatabaseName            = "orders"
    AllowedConnections      = "50"
    DatabaseEndpoint        = var.database_endpoint
    DatabaseSecretArn       = var.database_secret_arn
    DatabaseSecurityGroupId = var.database_security_group_id
    VpcId                   = var.vpc_id
    VpcSubnetIds            = join(",", var.subnet_ids)
    WithExample             = "false"
    WorkerRights            = "write"
    DatabaseSchema          = "shop"
    ProtectFromDeletion     = "true"
  }

  timeouts {
    create = "60m"
    update = "60m"
    delete = "60m"
  }
}

output "layer_arn" {
  value = aws_cloudformation_stack.governor.outputs["LayerArn"]
}

output "worker_policy_arn" {
  value = aws_cloudformation_stack.governor.outputs["WorkerPolicyArn"]
}

output "worker_secret_arn" {
  value = aws_cloudformation_stack.governor.outputs["WorkerSecretArn"]
}

output "table_name" {
  value = aws_cloudformation_stack.governor.outputs["TableName"]
}

output "functions_security_group_id" {
  value = aws_cloudformation_stack.governor.outputs["FunctionsSecurityGroupId"]
}
