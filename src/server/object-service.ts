/**
 * ObjectService and ClusterService over a control process: only translation between messages and calls.
 */
import type { ServiceImpl } from "@connectrpc/connect";
import type { ControlProcess, KeyAnswer } from "../control/index.js";
import type { ClusterService } from "../gen/hbmesh/v1/cluster_pb.js";
import type { ObjectService } from "../gen/hbmesh/v1/objects_pb.js";

export function createObjectService(control: ControlProcess): ServiceImpl<typeof ObjectService> {
  return {
    async exist({ keys }, { signal }) {
      const answers = await control.objects.exist(keys, { signal });
      return {
        entries: answers.map((answer) => ({ key: answer.key, presence: answer.presence, status: statusOf(answer) })),
      };
    },
    async getMetaInfo({ keys }, { signal }) {
      const answers = await control.objects.getMetaInfo(keys, { signal });
      return { entries: answers.map(({ code, message, ...meta }) => ({ ...meta, status: { code, message } })) };
    },
    async delete({ keys }, { signal }) {
      const answers = await control.objects.delete(keys, { signal });
      return {
        entries: answers.map((answer) => ({ key: answer.key, existed: answer.existed, status: statusOf(answer) })),
      };
    },
  };
}

export function createClusterService(control: ControlProcess): ServiceImpl<typeof ClusterService> {
  return {
    health: () => control.health(),
    listMembers: () => ({ members: [...control.members], epoch: control.epoch }),
  };
}

function statusOf(answer: KeyAnswer): { code: number; message: string } {
  return { code: answer.code, message: answer.message };
}
