// The packaged governor (`make package`, copied to a bucket) in a CDK app, and a function of one's own that it governs.
// `npm install && npm run synth` writes cdk.out/; `npx cdk deploy --app cdk.out` deploys it.
// A nested stack, not CfnInclude: that one loses the schedules of a template with SAM's transform.
const { App, CfnStack, Fn, Stack } = require("aws-cdk-lib");
const iam = require("aws-cdk-lib/aws-iam");
const lambda = require("aws-cdk-lib/aws-lambda");

const bucket = process.env.GOVERNOR_BUCKET ?? "my-artifacts";

const app = new App({ outdir: "cdk.out" });
const stack = new Stack(app, "Shop");

const governor = new CfnStack(stack, "Governor", {
  templateUrl: `https://${bucket}.s3.amazonaws.com/connection-governor/template.yaml`,
  parameters: {
    ArtifactsBucket: bucket,
    ArtifactsPrefix: "connection-governor/",
    DatabaseName: "orders",
    AllowedConnections: "50",
    CreateDatabase: "true",
    WithExample: "false",
    WorkerRights: "write",
    DatabaseSchema: "shop",
  },
});
const output = (name) => governor.getAtt(`Outputs.${name}`).toString();

const role = new iam.Role(stack, "CheckoutRole", {
  assumedBy: new iam.ServicePrincipal("lambda.amazonaws.com"),
  managedPolicies: [
    iam.ManagedPolicy.fromAwsManagedPolicyName("service-role/AWSLambdaVPCAccessExecutionRole"),
    iam.ManagedPolicy.fromManagedPolicyArn(stack, "Governed", output("WorkerPolicyArn")),
  ],
});
new lambda.CfnFunction(stack, "Checkout", {
  runtime: "python3.13",
  architectures: ["arm64"],
  handler: "index.handler",
  timeout: 30,
  role: role.roleArn,
  layers: [output("LayerArn")],
  vpcConfig: {
    subnetIds: Fn.split(",", output("SubnetIds")),
    securityGroupIds: [output("FunctionsSecurityGroupId")],
  },
  environment: {
    variables: {
      GOVERNOR_TABLE: output("TableName"),
      GOVERNOR_DATABASE: "orders",
      DB_HOST: output("DatabaseEndpoint"),
      DB_NAME: "shop",
      DB_SECRET_ARN: output("WorkerSecretArn"),
    },
  },
  code: {
    zipFile: [
      "from connection_governor import Governor",
      "",
      "governor = Governor.from_env()",
      "",
      "",
      "def handler(event, context):",
      "    with governor.connection(timeout=2.0, context=context) as connection:",
      "        with connection.cursor() as cursor:",
      '            cursor.execute("SELECT 1")',
      "            return cursor.fetchone()",
    ].join("\n"),
  },
});

app.synth();
