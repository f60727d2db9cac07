/**
 * ObjectService and ClusterService over a control process: only translation between messages and calls.
 */
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { ClusterToken } from "../base/credentials.js";
import type { CallOptions, ControlProcess, KeyAnswer } from "../control/index.js";
import type { ClusterService } from "../gen/hbmesh/v1/cluster_pb.js";
import type { ObjectService } from "../gen/hbmesh/v1/objects_pb.js";
import { type Access, checkAsker, checkOperator, tenantOf } from "./tenant-of.js";

export function createObjectService(control: ControlProcess): ServiceImpl<typeof ObjectService> {
  const optionsOf = (context: HandlerContext): CallOptions => ({
    signal: context.signal,
    tenant: tenantOf(accessOf(control), context.requestHeader),
  });
  return {
    async exist({ keys }, context) {
      const answers = await control.objects.exist(keys, optionsOf(context));
      return {
        entries: answers.map((answer) => ({ key: answer.key, presence: answer.presence, status: statusOf(answer) })),
      };
    },
    async getMetaInfo({ keys }, context) {
      const answers = await control.objects.getMetaInfo(keys, optionsOf(context));
      return { entries: answers.map(({ code, message, ...meta }) => ({ ...meta, status: { code, message } })) };
    },
    async delete({ keys }, context) {
      const answers = await control.objects.delete(keys, optionsOf(context));
      return {
        entries: answers.map((answer) => ({ key: answer.key, existed: answer.existed, status: statusOf(answer) })),
      };
    },
    async explain({ key }, context) {
      const { code, message, locations, ...known } = await control.objects.explain(key, optionsOf(context));
      return {
        ...known,
        status: { code, message },
        locations: locations.map(({ code: locationCode, message: locationMessage, ...location }) => ({
          ...location,
          status: { code: locationCode, message: locationMessage },
        })),
      };
    },
  };
}

/** `operator` is what the worker's own user on its host shows; such a one may do all of this. */
export function createClusterService(
  control: ControlProcess,
  operator?: ClusterToken | undefined,
): ServiceImpl<typeof ClusterService> {
  const access = { ...accessOf(control), operator };
  return {
    health(_request, { requestHeader }) {
      checkAsker(access, requestHeader);
      return control.health();
    },
    listMembers(_request, { requestHeader }) {
      checkAsker(access, requestHeader);
      return { members: [...control.members], epoch: control.epoch };
    },
    drain({ bytesPerSecond, timeLimitMs, leaveBehind }, { requestHeader }) {
      checkOperator(access, requestHeader);
      return control.drain.start({ bytesPerSecond: Number(bytesPerSecond), timeLimitMs, leaveBehind });
    },
    getDrain(_request, { requestHeader }) {
      checkAsker(access, requestHeader);
      return control.drain.status;
    },
    stopDrain(_request, { requestHeader }) {
      checkOperator(access, requestHeader);
      return control.drain.stop("it was stopped by who asked for it");
    },
  };
}

function accessOf(control: ControlProcess): Access {
  return { tenants: control.tenants, clusterToken: control.credentials.token };
}

function statusOf(answer: KeyAnswer): { code: number; message: string } {
  return { code: answer.code, message: answer.message };
}
