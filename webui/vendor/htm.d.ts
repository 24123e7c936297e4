export * from "htm";
import made from "htm";
export default made;
